//! When the ledger could not be written: memory is brought back to what is
//! durable, and the ledger is tried until it takes records again.

use std::sync::Arc;
use std::time::Duration;

use key_server_ledger::Condition;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::lifecycle::{serving, set_serving};
use crate::service::Service;

/// How long to wait between two tries.
const TRY_EVERY: Duration = Duration::from_millis(500);

/// Repairs for ever.
pub(crate) async fn run(service: Service, health: HealthReporter) {
    loop {
        service.engine.wants_rebuild().await;
        let reason = match service.engine.ledger().condition() {
            Condition::Refusing { error, .. } => error.to_string(),
            Condition::Writable => String::from("it takes records again"),
        };
        tracing::error!(
            "calls that must be recorded are refused until the ledger takes them: {reason}"
        );
        set_serving(&health, ServingStatus::NotServing).await;
        rebuild(&service).await;
        while !resume(&service).await {
            tokio::time::sleep(TRY_EVERY).await;
        }
        tracing::info!("the ledger takes records again");
        set_serving(&health, serving(&service)).await;
        if let Err(error) = service.keys.resync().await {
            tracing::error!("keys could not be brought in line with the store: {error}");
        }
    }
}

async fn rebuild(service: &Service) {
    loop {
        let projector = Arc::clone(&service.projector);
        let rebuilt = tokio::task::spawn_blocking(move || projector.rebuild()).await;
        match rebuilt {
            Ok(Ok(())) => return,
            Ok(Err(error)) => tracing::error!("memory cannot be restored: {error}"),
            // What the error says is what the panic said, which may be a secret.
            Err(_) => tracing::error!("memory cannot be restored: that panicked; trying again"),
        }
        tokio::time::sleep(TRY_EVERY).await;
    }
}

async fn resume(service: &Service) -> bool {
    let engine = Arc::clone(&service.engine);
    let resumed = tokio::task::spawn_blocking(move || engine.try_resume()).await;
    match resumed {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            tracing::debug!("the ledger still refuses: {error}");
            false
        }
        Err(_) => {
            tracing::error!("the ledger could not be tried: that panicked; trying again");
            false
        }
    }
}
