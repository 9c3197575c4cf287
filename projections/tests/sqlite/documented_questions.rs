//! The questions of `docs/sqlite.md` are asked as they stand there.

use key_server_projections::Projection;
use rusqlite::{Connection, OpenFlags};

use crate::rows::{batch, mark, opened};

const PAGE: &str = include_str!("../../../docs/sqlite.md");

/// What stands between ` ```sql ` and ` ``` `.
fn questions() -> Vec<&'static str> {
    let blocks = PAGE.split("```sql\n").skip(1);
    blocks.map(|block| block.split("```").next().unwrap_or_default()).collect()
}

#[test]
fn every_documented_question_has_an_answer() {
    let (_directory, path, mut projection) = opened();
    projection.write(&mark(1), &batch(1)).unwrap();
    let reader = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    assert!(questions().len() >= 10);
    for question in questions() {
        let mut statement = reader.prepare(question).unwrap_or_else(|error| {
            panic!("{error}: {question}");
        });
        let mut rows = statement.query([]).unwrap();
        assert!(rows.next().unwrap().is_some(), "no answer: {question}");
    }
}

/// (table or view, its columns).
fn columns(path: &std::path::Path) -> Vec<(String, Vec<String>)> {
    let reader = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let sql = "SELECT name FROM sqlite_schema WHERE type IN ('table', 'view')";
    let mut names = reader.prepare(sql).unwrap();
    let names = names.query_map([], |row| row.get::<_, String>(0)).unwrap();
    let columns = |name: &str| {
        let statement = reader.prepare(&format!("SELECT * FROM {name}")).unwrap();
        statement.column_names().into_iter().map(str::to_owned).collect()
    };
    names.map(|name| name.unwrap()).map(|name| (name.clone(), columns(&name))).collect()
}

#[test]
fn every_table_view_and_column_is_on_the_page() {
    let (_directory, path, _projection) = opened();
    for (table, columns) in columns(&path) {
        assert!(PAGE.contains(&format!("`{table}`")), "{table} is not on the page");
        for column in columns {
            assert!(PAGE.contains(&format!("`{column}`")), "{table}.{column} is not on the page");
        }
    }
}
