//! A TCP proxy that does to a connection what networks do.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// What happens to connections, from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// Everything is passed on.
    Fine,
    /// What is passed on comes later by this.
    Slow(Duration),
    /// Requests are passed on, replies are lost.
    RepliesLost,
    /// New connections are closed at once.
    Refusing,
    /// Connections are cut after so many bytes of replies.
    CutAfter(usize),
}

/// A proxy to one server; ends with this value.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    server: SocketAddr,
    state: Mutex<State>,
}

struct State {
    weather: Weather,
    /// Both ends of each connection.
    connections: Vec<TcpStream>,
    /// How many were taken ever.
    taken: usize,
    has_ended: bool,
}

impl Proxy {
    /// A proxy to the server at this port, with fine weather.
    ///
    /// # Errors
    /// As the system says.
    pub fn to(port: u16) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let state =
            State { weather: Weather::Fine, connections: Vec::new(), taken: 0, has_ended: false };
        let server = SocketAddr::from(([127, 0, 0, 1], port));
        let shared = Arc::new(Shared { server, state: Mutex::new(state) });
        let for_thread = Arc::clone(&shared);
        thread::spawn(move || for_thread.accept(&listener));
        Ok(Self { address, shared })
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Changes the weather, for open connections too.
    pub fn set(&self, weather: Weather) {
        self.shared.lock().weather = weather;
    }

    /// How many connections it has taken.
    pub fn connections(&self) -> usize {
        self.shared.lock().taken
    }

    /// Cuts all connections now; new ones are taken.
    pub fn cut(&self) {
        for connection in self.shared.lock().connections.drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.lock().has_ended = true;
        self.cut();
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        while let Ok((client, _)) = listener.accept() {
            let (weather, has_ended) = {
                let state = self.lock();
                (state.weather, state.has_ended)
            };
            if has_ended {
                return;
            }
            if weather != Weather::Refusing {
                // A server that is away is a connection that is closed at once.
                let _ = self.join(client);
            }
        }
    }

    fn join(self: &Arc<Self>, client: TcpStream) -> io::Result<()> {
        let server = TcpStream::connect(self.server)?;
        let ends = [client.try_clone()?, server.try_clone()?];
        let mut state = self.lock();
        state.connections.extend(ends);
        state.taken += 1;
        drop(state);
        for (from, to, is_reply) in
            [(client.try_clone()?, server.try_clone()?, false), (server, client, true)]
        {
            let shared = Arc::clone(self);
            thread::spawn(move || shared.pass(from, to, is_reply));
        }
        Ok(())
    }

    fn pass(&self, mut from: TcpStream, mut to: TcpStream, is_reply: bool) {
        let (mut buffer, mut passed) = ([0; 16 * 1024], 0);
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let weather = self.lock().weather;
            let bytes = &buffer[..allowed(weather, is_reply, passed, count)];
            if let Weather::Slow(by) = weather {
                thread::sleep(by);
            }
            let is_cut = bytes.len() < count && weather != Weather::RepliesLost;
            if to.write_all(bytes).is_err() || is_cut {
                break;
            }
            passed += if is_reply { count } else { 0 };
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }
}

/// How many of the next `count` bytes are passed on.
fn allowed(weather: Weather, is_reply: bool, passed: usize, count: usize) -> usize {
    match weather {
        Weather::RepliesLost if is_reply => 0,
        Weather::CutAfter(bytes) if is_reply => count.min(bytes.saturating_sub(passed)),
        _ => count,
    }
}
