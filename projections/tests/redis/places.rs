//! Where a server may be: sentinels, a cluster, a Unix socket, TLS, another
//! database.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use key_server_core::PoolStats;
use key_server_projections::redis::RedisTls;
use key_server_projections::{
    Fleet, Projection, ProjectionError, Reservation, ReservationForModel,
};
use key_server_testkit::redis::{
    PASSWORD, RedisSentinel, RedisServer, USER, start_cluster, write_private,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use crate::conformance::{cluster_settings, sentinel_settings};
use crate::fixture::{
    Node, eventually, hold, key_id, model, next_rows, server, session_ref, settings, some_rows,
    wait,
};

pub(crate) fn rows_that_a_fail_over_lost_are_noticed_and_written_anew() {
    let mut servers = RedisSentinel::start().unwrap();
    let mut settings = sentinel_settings(&servers, "one");
    settings.timeout = Duration::from_millis(500);
    let mut one = Node::with(settings.clone());
    settings.node = "two".into();
    let two = Node::with(settings);
    one.announce();
    one.write(1, &some_rows(1, one.now()));
    servers
        .replica
        .wait_until("the replica has it", |replica| {
            let seq = replica.ask::<Option<String>>(&["HGET", "keys:node:{one}", "seq"]);
            seq.is_ok_and(|seq| seq.as_deref() == Some("1"))
        })
        .unwrap();
    servers.replica.freeze().unwrap();
    servers.master.ask::<i64>(&["CLIENT", "KILL", "TYPE", "replica"]).unwrap();
    one.write(2, &some_rows(2, one.now()));
    servers.master.kill().unwrap();
    servers.replica.thaw().unwrap();
    servers.wait_for_fail_over().unwrap();
    let announced = eventually("the new master is found", || one.try_announce().ok());
    assert_eq!(announced.mark_seq, Some(1), "the second batch is lost");
    let changes = some_rows(3, one.now());
    let lost = one.try_write(3, &changes).unwrap_err();
    assert!(matches!(lost, ProjectionError::Corrupt { .. }), "{lost}");
    // Whoever asks for the mark goes on from there.
    assert_eq!(one.mark_seq(), Some(1));
    let mut changes = some_rows(2, one.now());
    changes.sessions.extend(some_rows(3, one.now()).sessions);
    one.write(3, &changes);
    eventually("the other node finds it too", || two.try_announce().ok());
    let (seq, rows) = two.read("one");
    assert_eq!((seq, rows.sessions.len()), (Some(3), 3));
}

pub(crate) fn sentinels_that_do_not_know_the_master_are_named_with_the_cure() {
    let servers = RedisSentinel::start().unwrap();
    let mut settings = sentinel_settings(&servers, "one");
    let key_server_projections::redis::RedisMode::Sentinel { master, .. } = &mut settings.mode
    else {
        unreachable!("it was made so");
    };
    *master = "another".to_owned();
    let refused = Node::with(settings).projection.mark().unwrap_err().to_string();
    assert!(refused.contains("KEY_SERVER_REDIS_SENTINEL_MASTER"), "{refused}");
}

pub(crate) fn nodes_of_a_cluster_do_all_of_it() {
    let servers = start_cluster().unwrap();
    let mut one = Node::with(cluster_settings(&servers, "one"));
    let two = Node::with(cluster_settings(&servers[1..], "two"));
    let mut status = one.status();
    let models = ["openai/gpt-4o", "openai/o1", "anthropic/claude"];
    let pools = models.map(|model| PoolStats {
        model: model.parse().unwrap(),
        usable: 1,
        cooling: 0,
        at_cap: 0,
    });
    status.pools = Some(pools.to_vec());
    wait(one.fleet.announce(&status)).unwrap();
    two.announce();
    let mut listen = two.listen("one");
    one.write(1, &some_rows(1, one.now()));
    assert_eq!(next_rows(&mut listen).1, 1);
    assert_eq!(two.read("one").0, Some(1));
    assert_eq!(wait(two.fleet.others()).unwrap().len(), 1);
    let until = Some(one.now().after(Duration::from_secs(60)));
    let hold = |n, until| hold(key_id(n), session_ref(n), until);
    wait(one.fleet.hold(&[hold(1, until), hold(2, until)])).unwrap();
    let keys = (1..4).map(|n| (key_id(n), Some(1))).collect();
    let models = vec![ReservationForModel { model: model(), count: 2, is_needed: true, keys }];
    let wanted = Reservation { session: session_ref(9), models };
    assert_eq!(wait(two.fleet.reserve(&wanted)).unwrap(), [[key_id(3)]]);
    // A slot that moved: the server says so, and another one is asked.
    move_slot(&servers, "keys:node:{one}");
    let changes = some_rows(2, one.now());
    let lost = one.try_write(2, &changes).unwrap_err();
    assert!(matches!(lost, ProjectionError::Corrupt { .. }), "{lost}");
    one.projection.clear().unwrap();
    one.write(2, &changes);
}

pub(crate) fn a_server_of_a_cluster_that_comes_back_empty_is_filled_again() {
    let mut servers = start_cluster().unwrap();
    let mut settings = cluster_settings(&servers, "one");
    settings.timeout = Duration::from_millis(500);
    let mut one = Node::with(settings);
    one.announce();
    one.write(1, &some_rows(1, one.now()));
    let holder = servers
        .iter()
        .position(|server| server.ask::<Option<u64>>(&["HGET", "keys:node:{one}", "seq"]).is_ok());
    let holder = &mut servers[holder.unwrap()];
    holder.kill().unwrap();
    let changes = some_rows(2, one.now());
    let begun = tokio::time::Instant::now();
    let away = one.try_write(2, &changes).unwrap_err();
    assert!(matches!(away, ProjectionError::Unavailable { .. }), "{away}");
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    holder.resume().unwrap();
    let lost = eventually("it is there again", || {
        one.try_write(2, &changes)
            .err()
            .filter(|error| matches!(error, ProjectionError::Corrupt { .. }))
    });
    assert!(lost.to_string().contains("lost"), "{lost}");
    one.projection.clear().unwrap();
    one.write(2, &changes);
    assert_eq!(one.announce().mark_seq, Some(2));
}

pub(crate) fn a_list_of_nodes_that_a_cluster_lost_is_there_again() {
    let mut servers = start_cluster().unwrap();
    let settings = |node| {
        let mut settings = cluster_settings(&servers, node);
        settings.timeout = Duration::from_millis(500);
        settings
    };
    let (one, two) = (Node::with(settings("one")), Node::with(settings("two")));
    one.announce();
    two.announce();
    let has_list = |server: &RedisServer| server.ask::<bool>(&["EXISTS", "keys:nodes"]);
    let holder = servers.iter().position(|server| has_list(server).is_ok_and(|has| has));
    let holder = &mut servers[holder.unwrap()];
    holder.kill().unwrap();
    holder.resume().unwrap();
    eventually("both are in the list again", || {
        let announced = one.try_announce().is_ok() && two.try_announce().is_ok();
        let nodes = holder.ask::<Vec<String>>(&["SMEMBERS", "keys:nodes"]).ok()?;
        (announced && nodes.len() == 2).then_some(())
    });
}

/// Gives the slot of a name to another server; what was in it is lost.
fn move_slot(servers: &[RedisServer], name: &str) {
    let slot: u64 = servers[0].ask(&["CLUSTER", "KEYSLOT", name]).unwrap();
    let slot = slot.to_string();
    let count = |server: &RedisServer| -> u64 {
        server.ask(&["CLUSTER", "COUNTKEYSINSLOT", &slot]).unwrap()
    };
    let from = servers.iter().position(|server| count(server) > 0).unwrap();
    servers[from].ask::<()>(&["FLUSHALL"]).unwrap();
    let to = &servers[(from + 1) % servers.len()];
    let id: String = to.ask(&["CLUSTER", "MYID"]).unwrap();
    for server in [to, &servers[from], &servers[(from + 2) % servers.len()]] {
        server.ask::<()>(&["CLUSTER", "SETSLOT", &slot, "NODE", &id]).unwrap();
    }
}

pub(crate) fn a_unix_socket_and_another_database_are_used() {
    let server = server();
    let socket = server.socket();
    let url = format!("unix://{USER}:{PASSWORD}@{}?db=3", socket.display());
    let mut one = Node::new(&url, "one");
    let two = Node::new(&format!("{}/3", server.url()), "two");
    let elsewhere = Node::new(&server.url(), "three");
    for node in [&one, &two, &elsewhere] {
        node.announce();
    }
    one.write(1, &some_rows(1, one.now()));
    assert_eq!(two.read("one").0, Some(1));
    assert_eq!(elsewhere.read("one").0, None);
    assert_eq!(two.fleet.how_to_forget("one"), "redis-cli -n 3 del 'keys:node:{one}'");
    assert_eq!(wait(two.fleet.others()).unwrap().len(), 1);
}

pub(crate) fn a_password_comes_from_its_file_and_may_be_replaced() {
    let mut server = server();
    let file = server.path("password");
    write_private(&file, PASSWORD).unwrap();
    let mut settings = settings(&format!("redis://127.0.0.1:{}", server.port()), "one");
    settings.username = Some(USER.to_owned());
    settings.password_file = Some(file.clone());
    let one = Node::with(settings);
    one.announce();
    let another = "fake-another-password";
    server.ask::<()>(&["ACL", "SETUSER", USER, "resetpass", &format!(">{another}")]).unwrap();
    server.ask::<i64>(&["CLIENT", "KILL", "USER", USER]).unwrap();
    server.wait_until("it is refused", |_| one.try_announce().is_err()).unwrap();
    write_private(&file, &format!("{another}\n")).unwrap();
    one.announce();
    std::fs::remove_file(&file).unwrap();
    server.ask::<i64>(&["CLIENT", "KILL", "USER", USER]).unwrap();
    let refused = eventually("the file is missed", || {
        one.try_announce().err().map(|error| error.to_string()).filter(|text| text.contains("file"))
    });
    assert!(refused.contains(&file.display().to_string()), "{refused}");
}

pub(crate) fn a_password_file_for_everyone_is_refused() {
    let server = server();
    let file = server.path("password");
    write_private(&file, PASSWORD).unwrap();
    let mut settings = settings(&format!("redis://127.0.0.1:{}", server.port()), "one");
    settings.username = Some(USER.to_owned());
    settings.password_file = Some(file.clone());
    for (mode, is_taken) in [(0o644, false), (0o604, false), (0o640, true), (0o400, true)] {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        let announced = Node::with(settings.clone()).try_announce();
        assert_eq!(announced.is_ok(), is_taken, "{mode:o}: {announced:?}");
        if let Err(error) = announced {
            assert!(error.to_string().contains("chmod o="), "{error}");
        }
    }
}

pub(crate) fn a_cluster_taken_for_a_single_server_says_so() {
    let servers = start_cluster().unwrap();
    let announced = servers.iter().map(|server| Node::new(&server.url(), "one").try_announce());
    for refused in announced {
        // What several nodes share is never all on one of them.
        let error = refused.unwrap_err().to_string();
        assert!(error.contains("redis_mode = cluster"), "{error}");
    }
}

pub(crate) fn tls_takes_the_certificates_that_are_named_and_no_others() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    make_certificates(dir.path());
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let lines = [
        format!("tls-port {port}"),
        format!("tls-cert-file {}", path("server.pem").display()),
        format!("tls-key-file {}", path("server.key").display()),
        format!("tls-ca-cert-file {}", path("ca.pem").display()),
        "tls-auth-clients yes".to_owned(),
    ];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let _server = RedisServer::start(&lines).unwrap();
    let mut settings = settings(&format!("rediss://{USER}:{PASSWORD}@localhost:{port}"), "one");
    let refused = Node::with(settings.clone()).try_announce().unwrap_err().to_string();
    assert!(refused.contains("KEY_SERVER_REDIS_CA_CERT"), "{refused}");
    settings.tls = RedisTls {
        ca_cert: Some(path("ca.pem")),
        client_cert: Some(path("client.pem")),
        client_key: Some(path("client.key")),
    };
    let mut one = Node::with(settings.clone());
    one.announce();
    one.write(1, &some_rows(1, one.now()));
    let mut listen = one.listen("one");
    one.write(2, &some_rows(2, one.now()));
    assert_eq!(next_rows(&mut listen).1, 2);
    settings.tls.client_cert = None;
    let refused = Node::with(settings.clone()).try_announce().unwrap_err().to_string();
    assert!(refused.contains("KEY_SERVER_REDIS_CLIENT_KEY"), "{refused}");
    settings.tls.client_key = None;
    let refused = Node::with(settings).try_announce().unwrap_err().to_string();
    assert!(refused.contains("KEY_SERVER_REDIS_CLIENT_CERT"), "{refused}");
}

/// An authority, and a server and a client that it signed for.
fn make_certificates(dir: &std::path::Path) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "fake authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    std::fs::write(dir.join("ca.pem"), authority.pem()).unwrap();
    for name in ["server", "client"] {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &authority).unwrap();
        std::fs::write(dir.join(format!("{name}.pem")), certificate.pem()).unwrap();
        write_private(&dir.join(format!("{name}.key")), &key.serialize_pem()).unwrap();
    }
}
