use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;

struct Sample {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

fn sample(content: impl AsRef<[u8]>) -> Sample {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api_keys.csv");
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    Sample { _dir: dir, path }
}

fn import(content: impl AsRef<[u8]>) -> Import {
    import_csv(&sample(content).path, &CsvLimits::default())
}

/// The problems as they are shown, without the directory.
fn shown(import: &Import) -> Vec<String> {
    let lines = import.problems.iter().map(|problem| {
        let text = problem.to_string();
        let place = text.find("api_keys.csv").unwrap_or(0);
        text[place..].replacen("api_keys.csv", "", 1)
    });
    lines.collect()
}

fn problems(content: impl AsRef<[u8]>) -> Vec<String> {
    shown(&import(content))
}

/// The problems of rows under a header with all known columns.
fn problems_of_rows(rows: &str) -> Vec<String> {
    problems(format!("provider,model,api_key,weight,max_holders,label\n{rows}"))
}

#[test]
fn key_under_another_column_is_an_error_and_is_not_shown() {
    let long = "AIzaFakeFakeFakeFakeFakeFakeFakeFakeFake";
    let message = "holds a key; put it into the column api_key, and compare the header";
    for (row, column) in [
        ("openai,sk-fake-1,gpt-4o,,,", "model"),
        ("sk-fake-1,gpt-4o,openai,,,", "provider"),
        ("openai,gpt-4o,x,,,sk-fake-1", "label"),
        (&format!("gemini,{long},gemini-pro,,,"), "model"),
    ] {
        assert_eq!(problems_of_rows(row), [format!(":2: error: {column}: {message}")]);
    }
    // Names that begin as keys do.
    let names = "xai,xai-grok-3,fake-1,,,\nperplexity,pplx-70b-online,fake-2,,,pplx- one\n";
    assert_eq!(problems_of_rows(names), Vec::<String>::new());
}

const USERS_SAMPLE: &str = "\
provider,model,api_key
OpenAI,gpt-4o,sk-your-openai-key
Anthropic,claude-3-7-sonnet-20250219,sk-ant-your-key
DeepSeek,deepseek-reasoner,your-deepseek-key
XAI,grok-3-beta,your-xai-key
Together,meta-llama/Meta-Llama-3.1-8B-Instruct-Turbo,your-together-key
";

fn models_of(import: &Import) -> Vec<String> {
    let models = import.keys.iter().flat_map(|key| &key.models);
    let mut names: Vec<String> = models.map(ToString::to_string).collect();
    names.sort();
    names
}

#[test]
fn csv_as_users_have_it_is_read_without_a_word() {
    let import = import(USERS_SAMPLE);
    assert_eq!(shown(&import), [""; 0]);
    assert_eq!(
        models_of(&import),
        [
            "anthropic/claude-3-7-sonnet-20250219",
            "deepseek/deepseek-reasoner",
            "openai/gpt-4o",
            "together/meta-llama/Meta-Llama-3.1-8B-Instruct-Turbo",
            "xai/grok-3-beta",
        ]
    );
    assert!(import.keys.is_sorted_by_key(|key| key.id));
}

#[test]
fn same_keys_are_read_from_every_spelling_of_a_csv() {
    let expected = import(USERS_SAMPLE);
    let quoted = "\"sk-your-openai-key\"";
    for content in [
        format!("\u{feff}{USERS_SAMPLE}"),
        USERS_SAMPLE.replace('\n', "\r\n"),
        USERS_SAMPLE.replace('\n', "\r"),
        USERS_SAMPLE.replace(',', " ,\t "),
        USERS_SAMPLE.replace('\n', "\n\n \t\n# a comment, \"with a quote\n"),
        USERS_SAMPLE.replace("sk-your-openai-key", quoted),
        USERS_SAMPLE.replace(",sk-your-openai-key", &format!(", {quoted} ")),
        USERS_SAMPLE.replace("provider,model,api_key", "Provider, MODEL ,Api_Key"),
        USERS_SAMPLE.replace("api_key", "api_key,weight,max_holders,label"),
        USERS_SAMPLE.replace('\n', ",,\n"),
        String::from(USERS_SAMPLE.trim_end()),
    ] {
        let import = import(&content);
        assert_eq!(shown(&import), [""; 0], "{content:?}");
        assert_eq!(models_of(&import), models_of(&expected), "{content:?}");
        for (key, other) in import.keys.iter().zip(&expected.keys) {
            assert_eq!(key.id, other.id, "{content:?}");
        }
    }
}

#[test]
fn columns_may_come_in_any_order_and_carry_facts() {
    let import = import(
        "label,api_key,max_holders,model,weight,provider\n\
         team a,sk-fake-0001,2,gpt-4o,0.125,OpenAI\n\
         ,sk-fake-0001,,o3,,openai\n",
    );
    assert_eq!(shown(&import), [""; 0]);
    let [key] = &import.keys[..] else {
        panic!("{} keys", import.keys.len());
    };
    assert_eq!(models_of(&import), ["openai/gpt-4o", "openai/o3"]);
    assert_eq!(key.own_weight, OwnWeight::from_thousandths(125));
    assert_eq!(key.max_holders, NonZeroU32::new(2));
    assert_eq!(key.label.as_deref(), Some("team a"));
    assert_eq!(key.secret.expose(), "sk-fake-0001");
}

#[test]
fn weights_are_decimals_in_thousandths() {
    for (text, thousandths) in [
        ("0", 0),
        ("1", 1_000),
        ("0.5", 500),
        ("0.05", 50),
        ("2.125", 2_125),
        ("1000", 1_000_000),
        ("1000.000", 1_000_000),
    ] {
        let import = import(format!("provider,model,api_key,weight\nopenai,o3,sk-fake,{text}\n"));
        let weight = import.keys[0].own_weight.unwrap();
        assert_eq!(weight.thousandths(), thousandths, "{text}");
    }
}

#[test]
fn bad_cells_are_named_with_line_and_cure() {
    let weight =
        "is not a decimal from 0 to 1000 with at most three decimals; write it as in 1 or 0.5";
    let holders = "is not a whole number from 1 to 4294967295; leave it empty for no cap";
    let cases = [
        (",m,sk-fake", ":2: error: provider: is empty; write it as in openai"),
        ("p,,sk-fake", ":2: error: model: is empty; write it as in gpt-4o"),
        ("p,m,", ":2: error: api_key: is empty; put the key there or remove the row"),
        ("p,m,  ", ":2: error: api_key: is empty; put the key there or remove the row"),
        ("p,m", ":2: error: has 2 cells, the header has 6; add what is missing"),
        (
            "p,m,sk-fake,1,1,a,b",
            ":2: error: has 7 cells, the header has 6; put quotes around a cell that contains a comma",
        ),
        (
            "p/q,m,sk-fake",
            ":2: error: provider: has a / in it; write what comes after it into the column model",
        ),
        (
            "p q,m,sk-fake",
            ":2: error: provider: has white space or control characters in it; write it as in openai",
        ),
        (
            "p,\"m\nn\",sk-fake",
            ":2: error: model: has white space or control characters in it; write it as in gpt-4o",
        ),
        (
            "p,m,sk fake",
            ":2: error: api_key: has white space in it; copy the key again, without any",
        ),
        (
            "p,m,sk\u{a0}fake",
            ":2: error: api_key: has white space in it; copy the key again, without any",
        ),
        (
            "p,m,sk\tfake",
            ":2: error: api_key: has control characters or line ends in it; copy the key again",
        ),
        ("p,\n", ":2: error: has 2 cells, the header has 6; add what is missing"),
        (
            "p,m,\"sk\nfake\"",
            ":2: error: api_key: has control characters or line ends in it; copy the key again",
        ),
        (
            "p,m,\"sk-fake",
            ":2: error: a quote opens here and is never closed; close it, or remove it",
        ),
        (
            "p,m,\"sk\"fake",
            ":2: error: there is text after a closing quote; put the quotes around the whole cell, and double quotes inside it",
        ),
        ("p,m,sk-fake,-1", &format!(":2: error: weight: \"-1\" {weight}")),
        ("p,m,sk-fake,1000.001", &format!(":2: error: weight: \"1000.001\" {weight}")),
        ("p,m,sk-fake,0.0001", &format!(":2: error: weight: \"0.0001\" {weight}")),
        ("p,m,sk-fake,\"0,5\"", &format!(":2: error: weight: \"0,5\" {weight}")),
        ("p,m,sk-fake,1e3", &format!(":2: error: weight: \"1e3\" {weight}")),
        ("p,m,sk-fake,.", &format!(":2: error: weight: \".\" {weight}")),
        ("p,m,sk-fake,sk-fake-2", &format!(":2: error: weight: {weight}")),
        ("p,m,sk-fake,99999999999999999999", &format!(":2: error: weight: {weight}")),
        ("p,m,sk-fake,,+1", &format!(":2: error: max_holders: \"+1\" {holders}")),
        ("p,m,sk-fake,,many", &format!(":2: error: max_holders: \"many\" {holders}")),
        ("p,m,sk-fake,,4294967296", &format!(":2: error: max_holders: \"4294967296\" {holders}")),
        (
            "p,m,sk-fake,,0",
            ":2: error: max_holders: is 0; leave it empty for no cap, or give weight 0 to take the key out of the draw",
        ),
        (
            "p,m,sk-fake,,,\"a\nb\"",
            ":2: error: label: has control characters or line ends in it; use plain text",
        ),
    ];
    for (row, expected) in cases {
        assert_eq!(problems_of_rows(row), [expected], "{row:?}");
    }
}

#[test]
fn lengths_have_limits_and_a_huge_cell_is_an_error() {
    let row = |model: usize, secret: usize, label: usize| {
        let (model, secret, label) = ("m".repeat(model), "k".repeat(secret), "ä".repeat(label));
        problems_of_rows(&format!("openai,{model},{secret},,,{label}\n"))
    };
    assert_eq!(row(256, 4_096, 128), [""; 0]);
    assert_eq!(
        row(257, 1, 1),
        [":2: error: model: is longer than 256 bytes; check for a missing line end or quote"]
    );
    assert_eq!(
        row(1, 4_097, 1),
        [
            ":2: error: api_key: is 4097 bytes long, more than 4096; check for a missing line end or quote"
        ]
    );
    assert_eq!(
        row(1, 1 << 20, 1),
        [
            ":2: error: api_key: is 1048576 bytes long, more than 4096; check for a missing line end or quote"
        ]
    );
    assert_eq!(
        row(1, 1, 129),
        [":2: error: label: is longer than 128 characters; use a shorter one"]
    );
}

#[test]
fn all_bad_rows_are_reported_in_order_and_nothing_is_imported() {
    let import = import(
        "provider,model,api_key\n\
         openai,gpt-4o,sk-fake-0001\n\
         # a comment line, which moves the lines of the csv crate\n\
         openai,,\n\
         \n\
         openai,gpt-4o,\"sk\n\
         fake\"\n\
         openai,gpt-4o\n",
    );
    assert_eq!(
        shown(&import),
        [
            ":4: error: model: is empty; write it as in gpt-4o",
            ":4: error: api_key: is empty; put the key there or remove the row",
            ":6: error: api_key: has control characters or line ends in it; copy the key again",
            ":8: error: has 2 cells, the header has 3; add what is missing",
        ]
    );
    assert_eq!(import.errors_count, 4);
    assert!(import.keys.is_empty());
}

#[test]
fn long_lists_of_problems_end_with_how_many_more_there_are() {
    let good = "openai,m,sk-fake\n".repeat(1_502);
    let bad = "openai,,sk-fake\n".repeat(1_234);
    let import = import(format!("provider,model,api_key\n{good}{bad}"));
    let shown = shown(&import);
    assert_eq!(shown.len(), 2_002);
    assert_eq!(
        shown[2_000..],
        [": error: and 234 more errors", ": warning: and 501 more warnings"]
    );
    assert_eq!(import.errors_count, 1_234);
}

#[test]
fn too_many_rows_are_refused() {
    let sample = sample("provider,model,api_key\n\na,b,c\na,b,d\na,b,e\n");
    let limits = CsvLimits { rows_max: 2, ..CsvLimits::default() };
    let import = import_csv(&sample.path, &limits);
    assert_eq!(
        shown(&import),
        [":5: error: there are more than 2 rows; split the file or raise the limit"]
    );
}

#[test]
fn bad_headers_are_explained_without_quoting_a_cell() {
    let none = "make provider,model,api_key the first line";
    for (content, expected) in [
        (
            "OpenAI,gpt-4o,sk-fake-canary\n",
            format!(":1: error: the header has no column provider, model, api_key; {none}"),
        ),
        (
            "# only a comment\n\n",
            String::from(": error: has no rows; the first line must be provider,model,api_key"),
        ),
        (
            "\n\nprovider,model\n",
            String::from(":3: error: the header has no column api_key; add it to the first line"),
        ),
        (
            "provider,model,API Key\n",
            String::from(
                ":1: error: the header has no column api_key; rename the column with the keys to api_key",
            ),
        ),
        (
            "provider;model;api_key\na;b;c\n",
            String::from(
                ":1: error: the cells are separated by semicolons; save the file with commas",
            ),
        ),
        (
            "provider\tmodel\tapi_key\na\tb\tc\n",
            String::from(":1: error: the cells are separated by tabs; save the file with commas"),
        ),
        (
            "provider,model,api_key,Model\n",
            String::from(":1: error: model: is in the header twice; remove one of the two columns"),
        ),
    ] {
        assert_eq!(problems(content), [expected], "{content:?}");
    }
}

#[test]
fn unknown_columns_are_named_in_one_warning() {
    let import =
        import("rpm,provider,model,api_key,tags,sk-fake-canary,\n1,openai,o3,sk-fake,,,\n");
    let known = "the known ones are provider, model, api_key, weight, max_holders, label";
    assert_eq!(
        shown(&import),
        [format!(
            ":1: warning: columns that are not used: rpm, tags, (one with an unusual name); {known}"
        )]
    );
    assert_eq!(import.keys.len(), 1);
}

#[test]
fn header_alone_is_an_empty_list_without_errors() {
    let import = import("provider,model,api_key\n");
    assert_eq!(shown(&import), [""; 0]);
    assert_eq!((import.keys.len(), import.errors_count), (0, 0));
}

#[test]
fn content_that_is_no_text_is_refused_with_a_hint() {
    let utf16: Vec<u8> = USERS_SAMPLE.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let utf16_with_mark = [b"\xff\xfe", &utf16[..]].concat();
    let latin1 = USERS_SAMPLE.replace("your-deepseek-key", "\u{1}").into_bytes();
    let latin1: Vec<u8> =
        latin1.into_iter().map(|byte| if byte == 1 { 0xe4 } else { byte }).collect();
    for (content, expected) in [
        (&b""[..], ": error: is empty; the first line must be provider,model,api_key"),
        (&utf16, ": error: is UTF-16 text; save it as CSV UTF-8"),
        (&utf16_with_mark, ": error: is UTF-16 text; save it as CSV UTF-8"),
        (
            b"PK\x03\x04abcd",
            ": error: is a spreadsheet or archive, not a CSV; save it as CSV UTF-8",
        ),
        (
            b"provider,model,api_key\r\na,b\0,c\n",
            ":2: error: holds a zero byte, so it is not text; save it as CSV UTF-8",
        ),
        (&latin1, ":4: error: is not UTF-8 text from this line on; save it as CSV UTF-8"),
    ] {
        assert_eq!(problems(content), [expected]);
    }
}

#[test]
fn paths_that_are_no_readable_file_are_refused_with_a_cure() {
    let dir = tempfile::tempdir().unwrap();
    let refusal = |path: &Path| shown(&import_csv(path, &CsvLimits::default()));
    let path = dir.path().join("api_keys.csv");
    assert_eq!(
        refusal(&path),
        [": error: does not exist; create it or correct the setting KEY_CONFIG_FILE"]
    );
    fs::create_dir(&path).unwrap();
    assert_eq!(refusal(&path), [": error: is a directory; name the CSV in it"]);
    fs::remove_dir(&path).unwrap();
    symlink("/dev/zero", &path).unwrap();
    assert_eq!(refusal(&path), [": error: is not a regular file; copy the CSV into one"]);
    fs::remove_file(&path).unwrap();
    let fifo_made = rustix::fs::mknodat(
        rustix::fs::CWD,
        &path,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    );
    fifo_made.unwrap();
    assert_eq!(refusal(&path), [": error: is not a regular file; copy the CSV into one"]);
}

#[test]
fn unreadable_file_is_refused_with_a_cure() {
    let sample = sample(USERS_SAMPLE);
    fs::set_permissions(&sample.path, fs::Permissions::from_mode(0o000)).unwrap();
    let shown = shown(&import_csv(&sample.path, &CsvLimits::default()));
    // Root reads everything; then there is nothing to report.
    let expected = match rustix::process::geteuid().is_root() {
        true => vec![],
        false => vec![
            ": error: cannot be read: permission denied; let the server's user own it, with mode 0600",
        ],
    };
    assert_eq!(shown, expected);
}

#[test]
fn file_over_the_limit_is_refused() {
    let sample = sample(USERS_SAMPLE);
    let limits = CsvLimits { file_bytes_max: 100, ..CsvLimits::default() };
    let import = import_csv(&sample.path, &limits);
    assert_eq!(shown(&import), [": error: is larger than 100 bytes; split it or raise the limit"]);
}

#[test]
fn file_open_to_others_is_a_warning() {
    let sample = sample(USERS_SAMPLE);
    fs::set_permissions(&sample.path, fs::Permissions::from_mode(0o644)).unwrap();
    let import = import_csv(&sample.path, &CsvLimits::default());
    assert_eq!(
        shown(&import),
        [": warning: is open to group or others (mode 0644); run chmod 600 on it"]
    );
    assert_eq!(import.keys.len(), 5);
}

#[test]
fn file_of_someone_else_is_a_warning() {
    let sample = sample(USERS_SAMPLE);
    let mut path = sample.path.clone();
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&path, Some(12_345), None).unwrap();
    } else {
        path = PathBuf::from("/etc/passwd");
    }
    let import = import_csv(&path, &CsvLimits::default());
    let warned = import.problems.iter().any(|problem| {
        problem.severity == Severity::Warning && problem.message.starts_with("belongs to uid ")
    });
    assert!(warned, "{:?}", import.problems);
}

#[test]
fn repeated_row_is_one_key_and_a_warning_with_both_lines() {
    let import = import("provider,model,api_key\nopenai,o3,sk-fake\n\nOpenAI,o3,\"sk-fake\"\n");
    assert_eq!(
        shown(&import),
        [":4: warning: the same provider, model and key as on line 2; remove one of the two"]
    );
    assert_eq!(import.keys.len(), 1);
}

#[test]
fn rows_of_one_key_that_disagree_are_errors_with_both_lines() {
    let shown = problems_of_rows(
        "openai,o3,sk-fake,1,2,a\n\
         openai,gpt-4o,sk-fake,,,\n\
         openai,gpt-4.1,sk-fake,2,3,b\n",
    );
    let text =
        "differs from line 2, which has the same key; give both the same value, or leave one empty";
    assert_eq!(
        shown,
        ["weight", "max_holders", "label"].map(|column| format!(":4: error: {column}: {text}"))
    );
}

#[test]
fn doubtful_keys_are_warnings() {
    for (row, expected) in [
        (
            "openai,o3,sk-ant-fake",
            "api_key: begins with sk-ant- as the keys of anthropic do; check the provider",
        ),
        (
            "deepseek,r1,gsk_fake",
            "api_key: begins with gsk_ as the keys of groq do; check the provider",
        ),
        (
            "openai,o3,env:OPENAI_API_KEY",
            "api_key: begins with env: as a reference does, but is taken as it stands; write the key itself",
        ),
        (
            "openai,o3,'sk-fake'",
            "api_key: has a quotation mark in it; remove it unless it belongs to the key",
        ),
        (
            "openai,o3,“sk-fake”",
            "api_key: has a quotation mark in it; remove it unless it belongs to the key",
        ),
        (
            "openai,o3,sk-fake\u{200b}",
            "api_key: has characters outside ASCII, maybe invisible ones; copy the key again from the provider's page",
        ),
        (
            "openai,openai/o3,sk-fake",
            "model: begins with the provider again; remove it there unless the provider's own name for the model has it",
        ),
    ] {
        assert_eq!(problems_of_rows(row), [format!(":2: warning: {expected}")], "{row:?}");
    }
    for row in
        ["anthropic,claude,sk-ant-fake", "my-gateway,claude,sk-ant-fake", "xai,grok,your-xai-key"]
    {
        assert_eq!(problems_of_rows(row), [""; 0], "{row:?}");
    }
}

const CANARY: &str = "CANARY-9f8e7d6c";
const HEADER: &str = "provider,model,api_key,weight,max_holders,label\n";

/// Text of which a reader would like to choke.
fn hostile() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just(CANARY.to_owned()),
        "[a-z0-9#;,\"\t\n\r \u{feff}é/.-]{0,8}",
        Just(HEADER.to_owned()),
        Just(format!("openai,o3,{CANARY},1,1,a\n")),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| format!("{HEADER}{}", pieces.concat()))
}

/// A row whose credential holds the canary, and with other cells of any kind.
fn row_with_canary() -> impl Strategy<Value = String> {
    let cell = "[a-zA-Z0-9 #;\"/.é-]{0,10}";
    let secret = "[a-zA-Z0-9 ;é\"\t-]{0,5}";
    (cell, cell, secret, cell, cell, cell)
        .prop_map(|(a, b, c, d, e, f)| format!("{a},{b},{c}{CANARY}{c},{d},{e},{f}\n"))
}

fn text_of(import: &Import) -> String {
    format!("{:?} {} {import:?}", import.problems, shown(import).join("\n"))
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut problems = Problems::of(Path::new("api_keys.csv"));
        import_bytes(&bytes, &CsvLimits::default(), &mut problems);
    }

    #[test]
    fn any_text_is_read_without_a_panic_and_never_repeated(text in hostile()) {
        let mut problems = Problems::of(Path::new("api_keys.csv"));
        let keys = import_bytes(text.as_bytes(), &CsvLimits::default(), &mut problems);
        let import = problems.into_import(keys);
        prop_assert!(!text_of(&import).contains("CANARY"), "{}", text_of(&import));
    }

    #[test]
    fn no_message_holds_the_credential(rows in prop::collection::vec(row_with_canary(), 1..6)) {
        let text = format!("{HEADER}{}", rows.concat());
        let mut problems = Problems::of(Path::new("api_keys.csv"));
        let keys = import_bytes(text.as_bytes(), &CsvLimits::default(), &mut problems);
        let import = problems.into_import(keys);
        prop_assert!(!text_of(&import).contains("CANARY"), "{}", text_of(&import));
    }
}
