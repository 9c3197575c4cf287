use std::path::PathBuf;

use key_server_proto::v1;
use key_server_secrets::{Problem, Severity};

use super::wire;
use crate::error::ServiceError;
use crate::guard::Peer;
use crate::keys::{Reload, Reloaded};
use crate::policy::Verb;
use crate::service::Service;

impl Service {
    pub(crate) async fn reload_keys(
        &self,
        caller: &Peer,
        request: &v1::ReloadKeysRequest,
    ) -> Result<v1::ReloadKeysResponse, ServiceError> {
        self.guard.allow(caller, Verb::Reload)?;
        let path = (!request.path.is_empty()).then(|| PathBuf::from(&request.path));
        let reload = Reload { path, force: request.force, dry_run: request.dry_run };
        let reloaded = self.keys.reload(Some(caller), &reload).await?;
        Ok(response(reloaded))
    }
}

fn response(reloaded: Reloaded) -> v1::ReloadKeysResponse {
    v1::ReloadKeysResponse {
        success: reloaded.refusal.is_none(),
        added: wire::small_count(reloaded.added),
        changed: wire::small_count(reloaded.changed),
        withdrawn: wire::small_count(reloaded.withdrawn),
        unchanged: wire::small_count(reloaded.unchanged),
        problems: reloaded.problems.into_iter().map(problem).collect(),
        error: reloaded.refusal.unwrap_or_default(),
    }
}

fn problem(problem: Problem) -> v1::RowProblem {
    let severity = match problem.severity {
        Severity::Error => v1::row_problem::Severity::Error,
        Severity::Warning => v1::row_problem::Severity::Warning,
    };
    v1::RowProblem {
        severity: severity.into(),
        line: problem.line.map_or(0, i64::from),
        column: problem.column.unwrap_or_default().to_owned(),
        message: problem.message,
    }
}
