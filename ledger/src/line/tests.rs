use proptest::prelude::*;

use super::samples::{FIRST_MS, entries};
use super::strategies::{entry, node};
use super::*;
use crate::chain::line_hash;
use crate::record::Fact;

/// The last millisecond that a line can show.
const WALL_MS_MAX: u64 = 253_402_207_200_999;

fn frame(seq: u64) -> Frame {
    let at = Time::from_ms(FIRST_MS + seq * 1_000);
    Frame { seq, at, wall_ms: FIRST_MS + seq * 1_000, more: 0, prev: [0; 32] }
}

fn encoded(node: &str, frame: &Frame, entry: &Entry) -> Vec<u8> {
    let mut bytes = Vec::new();
    Encoder::new(node.into()).encode(frame, entry, &mut bytes);
    assert_eq!(bytes.pop(), Some(b'\n'));
    bytes
}

fn resealed(body: &str) -> Vec<u8> {
    let mut bytes = body.as_bytes().to_vec();
    seal(&mut bytes, 0);
    bytes.pop();
    bytes
}

fn sample_lines() -> Vec<String> {
    let (mut prev, mut lines) = ([0; 32], Vec::new());
    for (seq, entry) in (1..).zip(entries()) {
        // The key that was added and the one that was changed are one call.
        let more = u64::from(seq == 2);
        let at = frame(if seq == 3 { 2 } else { seq }).at;
        let line = encoded("n_7f3a", &Frame { prev, more, at, ..frame(seq) }, &entry);
        prev = line_hash(&line);
        lines.push(String::from_utf8(line).unwrap());
    }
    lines
}

proptest! {
    #[test]
    fn a_line_survives_encoding_and_decoding(
        entry in entry(),
        node in node(),
        (seq, at, more) in any::<(u64, u64, u64)>(),
        wall_ms in 0..=WALL_MS_MAX,
        prev in any::<[u8; 32]>(),
    ) {
        let at = Time::from_ms(at);
        let line = encoded(&node, &Frame { seq, at, wall_ms, more, prev }, &entry);
        let decoded = Decoder::default().decode(&line).unwrap();
        let Entry { caller, fact } = entry;
        prop_assert_eq!(decoded.record, Record { seq, at, wall_ms, node, caller, fact, more });
        prop_assert_eq!(decoded.prev, prev);
    }

    #[test]
    fn a_line_is_one_json_object_on_one_line(entry in entry(), node in node()) {
        let line = encoded(&node, &frame(7), &entry);
        prop_assert!(line.iter().all(|byte| *byte >= b' '));
        let json: serde_json::Value = serde_json::from_slice(&line).unwrap();
        prop_assert_eq!(json["v"].as_u64(), Some(SCHEMA_VERSION));
        prop_assert_eq!(json["seq"].as_u64(), Some(7));
        prop_assert_eq!(json["node"].as_str(), Some(&*node));
        prop_assert_eq!(json["event"].as_str(), Some(event::name(&entry.fact)));
    }

    #[test]
    fn no_line_is_longer_than_six_times_its_estimate(entry in entry()) {
        let line = encoded("n_7f3a", &frame(u64::MAX / 1_000_000), &entry);
        prop_assert!(line.len() <= entry.bytes_estimate() * 6);
    }

    /// There is one line for a record: what decodes encodes to itself.
    #[test]
    fn a_changed_line_is_refused_or_says_what_it_says(
        entry in entry(),
        place in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        kind in 0..3,
    ) {
        let line = encoded("n_7f3a", &frame(7), &entry);
        let mut body = checked_body(&line).unwrap().to_vec();
        let place = place.index(body.len());
        match kind {
            0 => body[place] = byte,
            1 => body.insert(place, byte),
            _ => drop(body.remove(place)),
        }
        seal(&mut body, 0);
        body.pop();
        if let Ok(Decoded { record, prev }) = Decoder::default().decode(&body) {
            let Record { seq, at, wall_ms, node, caller, fact, more } = record;
            let frame = Frame { seq, at, wall_ms, more, prev };
            prop_assert_eq!(encoded(&node, &frame, &Entry { caller, fact }), body);
        }
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in any::<Vec<u8>>()) {
        let mut line = bytes;
        prop_assert!(Decoder::default().decode(&line).is_err());
        seal(&mut line, 0);
        line.pop();
        prop_assert!(Decoder::default().decode(&line).is_err());
    }
}

#[test]
fn the_largest_entry_fits_into_the_longest_line() {
    const { assert!(ENTRY_BYTES_MAX * 6 < LINE_BYTES_MAX) }
}

#[test]
fn lines_of_other_forms_are_refused() {
    let line = encoded("n", &frame(7), &Entry::of_node(Fact::NodeStopped));
    let body = String::from_utf8(checked_body(&line).unwrap().to_vec()).unwrap();
    assert!(Decoder::default().decode(&resealed(&body)).is_ok());
    for (from, to) in [
        ("\"seq\":7", "\"seq\":07"),
        ("\"seq\":7", "\"seq\": 7"),
        ("\"seq\":7", "\"seq\":7.0"),
        ("\"seq\":7", "\"seq\":-7"),
        ("\"seq\":7", "\"seq\":18446744073709551616"),
        ("\"node\":\"n\"", "\"node\":\"\\u006e\""),
        ("\"node\":\"n\"", "\"node\":\"\\ud800\""),
        ("\"node\":\"n\"", "\"node\":\"n"),
        ("node.stopped\"", "node.stopped\",\"extra\":1"),
        ("node.stopped\"", "node.stopped\",\"more\":0"),
        ("node.stopped", "node.exploded"),
        ("node.stopped", "node.started"),
        (",\"prev\":\"00", ",\"prev\":\"0"),
        (",\"prev\":\"00", ",\"prev\":\"0A"),
    ] {
        let other = body.replacen(from, to, 1);
        assert_ne!(body, other, "{from}");
        let decoded = Decoder::default().decode(&resealed(&other));
        assert!(matches!(decoded, Err(Fault::Malformed { .. })), "{to}");
    }
}

#[test]
fn a_line_from_before_start_times_were_written_is_read() {
    let body = "{\"v\":1,\"seq\":7,\"time\":\"2026-01-01T00:00:07.000Z\",\"at\":1767225607000,\
        \"node\":\"n\",\"event\":\"session.expired\",\
        \"caller\":{\"uid\":1,\"gid\":2,\"pid\":3,\"exe\":\"/bin/x\"},\
        \"session\":\"s\",\"owner\":1,\"prev\":";
    let line = resealed(&format!("{body}\"{}\"", "0".repeat(64)));
    let record = Decoder::default().decode(&line).expect("it was written like that").record;
    let caller = record.caller.expect("it has one");
    assert_eq!((caller.pid, caller.started_ms, caller.exe.as_deref()), (3, None, Some("/bin/x")));
}

#[test]
fn a_line_of_another_version_is_named_as_such() {
    let line = resealed("{\"v\":2,\"whatever\":true");
    let decoded = Decoder::default().decode(&line);
    assert_eq!(decoded.err(), Some(Fault::Version { found: 2 }));
}

#[test]
fn a_line_without_its_checksum_is_refused() {
    let line = encoded("n", &frame(7), &Entry::of_node(Fact::NodeStopped));
    for bytes in 0..line.len() {
        assert_eq!(Decoder::default().decode(&line[..bytes]).err(), Some(Fault::Checksum));
    }
}

#[test]
fn the_audit_page_shows_what_is_written() {
    let page = include_str!("../../../docs/audit.md");
    for line in sample_lines() {
        assert!(page.contains(&line), "docs/audit.md should show this line:\n{line}");
    }
}
