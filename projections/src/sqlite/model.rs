use key_server_core::ModelName;
use rusqlite::Connection;

use crate::sqlite::fault::Fault;
use crate::sqlite::mark::Counts;
use crate::sqlite::numbers::Numbers;
use crate::sqlite::row_crc::RowCrc;

/// The number of a model; one that is new gets a row.
pub(crate) fn number(
    connection: &Connection,
    numbers: &mut Numbers,
    counts: &mut Counts,
    model: &ModelName,
) -> Result<i64, Fault> {
    if let Some(number) = numbers.models.get(model) {
        return Ok(*number);
    }
    let number = counts.models + 1;
    let mut statement = connection.prepare_cached("INSERT INTO model VALUES (?1, ?2, ?3)")?;
    statement.execute((number, model.as_str(), row_crc(number, model.as_str())))?;
    counts.models = number;
    numbers.models.insert(model.clone(), number);
    Ok(number)
}

/// All names; the model with the number `n` is at `n - 1`.
pub(crate) fn read(connection: &Connection, count: i64) -> Result<Vec<ModelName>, Fault> {
    let mut statement = connection.prepare("SELECT model, name, crc FROM model ORDER BY model")?;
    let mut rows = statement.query([])?;
    let mut models = Vec::new();
    while let Some(row) = rows.next()? {
        let (number, crc): (i64, i64) = (row.get(0)?, row.get(2)?);
        let name = row.get_ref(1)?.as_str().map_err(rusqlite::Error::from)?;
        if number != models.len() as i64 + 1 || crc != row_crc(number, name) {
            return Err(Fault::content(format!("model {number} does not match its checksum")));
        }
        let name = name.parse().map_err(|_| Fault::content("a model has no proper name"))?;
        models.push(name);
    }
    if models.len() as i64 != count {
        return Err(Fault::content("models are missing"));
    }
    Ok(models)
}

fn row_crc(number: i64, name: &str) -> i64 {
    RowCrc::default().begin().number(number).text(name).sum()
}
