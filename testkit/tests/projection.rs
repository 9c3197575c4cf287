//! The projections, held against their port's contract.

mod sqlite {
    use key_server_core::{Changes, Rules, Tokens, Usage};
    use key_server_projections::SqliteProjection;
    use key_server_projections::reports::{self, By};
    use key_server_projections::sqlite::FILE_NAME;
    use key_server_testkit::projection::{ProjectionFixture, ProjectionSum};
    use key_server_testkit::projection_conformance;
    use tempfile::TempDir;

    struct Fixture(TempDir);

    fn fixture() -> Fixture {
        Fixture(tempfile::tempdir().expect("there is room for a directory"))
    }

    impl ProjectionFixture for Fixture {
        type Projection = SqliteProjection;

        fn open(&self) -> SqliteProjection {
            SqliteProjection::open(&self.0.path().join(FILE_NAME)).expect("the file opens")
        }

        fn sum(&self) -> ProjectionSum {
            let mut sum = ProjectionSum::default();
            let loaded = self.open().load(Rules::default()).expect("the file loads");
            if let Some((_, state)) = loaded {
                let (keys, sessions) = state.rows();
                sum.add(&Changes { keys, sessions, ..Changes::default() });
            }
            let path = self.0.path().join(FILE_NAME);
            let report = reports::usage(&path, By::Key, 0, 1_000).expect("the file answers");
            let usage_of = sum.usage.get_or_insert_default();
            for row in report.rows {
                let tokens =
                    Tokens { input: row.input, output: row.output, cached_input: row.cached };
                let usage = Usage { requests: row.requests, failures: row.failures, tokens };
                usage_of.insert(row.name.parse().expect("the name is a key's id"), usage);
            }
            sum
        }
    }

    projection_conformance!(fixture);
}
