//! The one place that turns error kinds into gRPC statuses.

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::error::{ErrorKind, ServiceError};

/// The `domain` of every `google.rpc.ErrorInfo` of this service.
pub const ERROR_DOMAIN: &str = "keyserver.v1";

/// The gRPC code of an error kind.
pub const fn code(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::Unidentified => Code::Unauthenticated,
        ErrorKind::NotPermitted => Code::PermissionDenied,
        ErrorKind::InvalidInput => Code::InvalidArgument,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::Exhausted => Code::ResourceExhausted,
        ErrorKind::Unfit => Code::FailedPrecondition,
        ErrorKind::Conflict => Code::AlreadyExists,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::Corrupt => Code::DataLoss,
        ErrorKind::Bug => Code::Internal,
    }
}

impl From<ServiceError> for Status {
    fn from(error: ServiceError) -> Self {
        let metadata = error.metadata.into_iter().map(|(name, value)| (name.to_owned(), value));
        let mut details = ErrorDetails::with_error_info(
            error.reason,
            ERROR_DOMAIN,
            metadata.collect::<std::collections::HashMap<_, _>>(),
        );
        if let Some(time) = error.retry_after {
            details.set_retry_info(Some(time));
        }
        Self::with_error_details(code(error.kind), error.message, details)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_kind_has_its_own_code_and_comes_back_whole() {
        let rows = [
            (ErrorKind::Unidentified, Code::Unauthenticated),
            (ErrorKind::NotPermitted, Code::PermissionDenied),
            (ErrorKind::InvalidInput, Code::InvalidArgument),
            (ErrorKind::NotFound, Code::NotFound),
            (ErrorKind::Exhausted, Code::ResourceExhausted),
            (ErrorKind::Unfit, Code::FailedPrecondition),
            (ErrorKind::Conflict, Code::AlreadyExists),
            (ErrorKind::Unavailable, Code::Unavailable),
            (ErrorKind::Corrupt, Code::DataLoss),
            (ErrorKind::Bug, Code::Internal),
        ];
        for (kind, code) in rows {
            let error = ServiceError::new(kind, "A_REASON", "what to do")
                .with("key_id", "k_1")
                .retry_after(Duration::from_secs(3));
            let status = Status::from(error);
            assert_eq!((status.code(), status.message()), (code, "what to do"));
            let details = status.get_error_details();
            let info = details.error_info().unwrap();
            assert_eq!((info.reason.as_str(), info.domain.as_str()), ("A_REASON", ERROR_DOMAIN));
            assert_eq!(info.metadata["key_id"], "k_1");
            assert_eq!(details.retry_info().unwrap().retry_delay, Some(Duration::from_secs(3)));
        }
    }
}
