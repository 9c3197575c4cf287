//! What is refused in the sandbox, and what is not. Alone in its file, one
//! test: it is for the whole process and cannot be left again.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;

use key_server_sys::{Network, limit_calls, limit_files};

fn refused<T>(what: &str, result: io::Result<T>) {
    let Err(error) = result else { panic!("{what} is not refused") };
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{what}: {error}");
}

#[cfg_attr(miri, ignore = "Miri has no sandbox to enter")]
#[test]
fn a_process_in_the_sandbox_can_do_its_work_and_nothing_else() {
    let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (ours, others) = (inside.path().join("file"), outside.path().join("file"));
    fs::write(&others, "to be read").unwrap();
    let listener = UnixListener::bind(inside.path().join("socket")).unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap();
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    let others_memory = format!("/proc/{}/exe", child.id());
    fs::read_link(&others_memory).unwrap();

    let files = limit_files(&[inside.path()], Network::ConnectsOut);
    match &files {
        Ok(()) => {
            refused("writing elsewhere", fs::write(&others, "changed"));
            refused("making a file elsewhere", fs::write(others.with_extension("new"), "made"));
            refused("removing elsewhere", fs::remove_file(&others));
            refused("running a program", Command::new("true").status());
            refused("listening on TCP", TcpListener::bind("127.0.0.1:0"));
            refused("looking into another process", fs::read_link(&others_memory));
        }
        Err(error) => writeln!(io::stderr(), "skipped: the part with files: {error}").unwrap(),
    }
    fs::write(&ours, "written").unwrap();
    assert_eq!(fs::read_to_string(&others).unwrap(), "to be read");
    UnixListener::bind(inside.path().join("another")).unwrap();

    limit_calls(Network::ConnectsOut).unwrap();
    refused("running a program", Command::new("true").status());
    refused("listening on a path", UnixListener::bind(inside.path().join("third")));
    refused("listening on TCP", TcpListener::bind("127.0.0.1:0"));
    refused("listening on UDP", UdpSocket::bind("127.0.0.1:0"));
    // The work goes on: threads, files, the socket, the way out.
    std::thread::spawn(move || fs::write(&ours, "written again")).join().unwrap().unwrap();
    let client = UnixStream::connect(inside.path().join("socket")).unwrap();
    listener.accept().unwrap().0.write_all(b"x").unwrap();
    drop(client);
    TcpStream::connect(address).unwrap();

    limit_calls(Network::None).unwrap();
    refused("a way to networks", TcpStream::connect(address));
    UnixStream::connect(inside.path().join("socket")).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
}
