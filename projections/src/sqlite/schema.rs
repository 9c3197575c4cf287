use rusqlite::{Connection, TransactionBehavior};

use crate::sqlite::fault::Fault;

/// The version of the tables below; kept in the file's `user_version`.
pub(crate) const SCHEMA_VERSION: i64 = 2;

/// Marks the file as ours: `KSst` in ASCII, kept in its `application_id`.
const APPLICATION_ID: i64 = 0x4b53_7374;

const TABLES: &str = include_str!("schema.sql");

/// Checks that the file is ours and of this version; makes the tables in an
/// empty one.
pub(crate) fn prepare(connection: &mut Connection) -> Result<(), Fault> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if is_empty(&transaction)? {
        transaction.execute_batch(TABLES)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    }
    check(&transaction)?;
    transaction.commit()?;
    Ok(())
}

/// Checks that the file is ours and of this version.
pub(crate) fn check(connection: &Connection) -> Result<(), Fault> {
    if pragma(connection, "application_id")? != APPLICATION_ID {
        return Err(Fault::Foreign(
            "it is not a state file of key server: move it away, or name another state directory"
                .into(),
        ));
    }
    let version = pragma(connection, "user_version")?;
    if version > SCHEMA_VERSION {
        return Err(Fault::Foreign(format!(
            "a newer key server made it (schema {version}, this one knows {SCHEMA_VERSION}): use \
             that version, or delete the file while the server is stopped; it is filled again \
             from the ledger"
        )));
    }
    if version != SCHEMA_VERSION {
        return Err(Fault::content(format!(
            "an older key server made it (schema {version}, this one knows {SCHEMA_VERSION})"
        )));
    }
    Ok(())
}

/// Forgets all rows.
pub(crate) fn delete_rows(connection: &Connection) -> Result<(), Fault> {
    connection.execute_batch(
        "DELETE FROM mark; DELETE FROM allocation; DELETE FROM session; DELETE FROM usage;
         DELETE FROM receipt; DELETE FROM key; DELETE FROM model;",
    )?;
    Ok(())
}

fn is_empty(connection: &Connection) -> Result<bool, Fault> {
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    Ok(tables == 0 && pragma(connection, "application_id")? == 0)
}

fn pragma(connection: &Connection, name: &str) -> Result<i64, Fault> {
    Ok(connection.pragma_query_value(None, name, |row| row.get(0))?)
}
