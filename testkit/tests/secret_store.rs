//! Every secret store against the port's contract.

use std::fs;

use key_server_secrets::{AgeFileStore, IdentitySource, SecretStore, SecretStoreError};
use key_server_testkit::secret_store::{FailingSecretStore, conformance};

#[tokio::test]
async fn age_file_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    conformance(async |place: &str| {
        let path = dir.path().join(place);
        fs::create_dir_all(&path).unwrap();
        AgeFileStore::open(&path, &IdentitySource::StateDirectory).unwrap()
    })
    .await;
}

#[tokio::test]
async fn failing_store_fails_as_often_as_told_and_then_works() {
    let dir = tempfile::tempdir().unwrap();
    let store = AgeFileStore::open(dir.path(), &IdentitySource::StateDirectory).unwrap();
    let store = FailingSecretStore::new(store);
    let away = SecretStoreError::Unavailable(String::from("the store is away"));
    store.fail_next(away.clone());
    assert_eq!(store.load().await.map(drop), Err(away));
    assert_eq!(store.load().await.map(drop), Ok(()));
}
