//! Where calls arrive: sockets of TCP and of Unix, made here or handed over.
//!
//! A socket that whoever started ferry already listens on (systemd's socket
//! activation, `LISTEN_FDS`) is taken for the place that it is bound to. It
//! stays open while one ferry ends and the next begins, so that no caller
//! ever finds nobody there.

use std::{
    fmt, fs, io,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    time::Duration,
};

use listenfd::ListenFd;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, TcpStream, UnixListener},
};

/// How long a client's machine may leave what it was sent unacknowledged, and
/// how long a silent one is left alone.
const GONE_AFTER: Duration = Duration::from_secs(60);

/// An address of either kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A TCP socket.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Place {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(to),
            Self::Unix(path) => write!(to, "unix:{}", path.display()),
        }
    }
}

/// Why a place cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("listen address {place}: {error}; {}", remedy(.error))]
pub struct BindError {
    /// The place asked for.
    pub place: Place,
    /// What the system said.
    #[source]
    pub error: io::Error,
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "free it or choose another",
        io::ErrorKind::AddrNotAvailable => "choose an address of this machine",
        io::ErrorKind::InvalidInput => "choose a shorter path",
        io::ErrorKind::NotFound => "make its directory or choose another path",
        io::ErrorKind::PermissionDenied => "run as somebody who may, or choose another",
        _ => "choose another",
    }
}

/// A socket that listens.
#[derive(Debug)]
pub struct Listening {
    /// Removed before the socket is closed, after which its place is anybody's;
    /// `None` if it is somebody else's.
    _file: Option<OwnFile>,
    socket: Socket,
    place: Place,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

#[derive(Debug)]
struct OwnFile {
    path: PathBuf,
    /// Which file it is: another ferry may have put its own in its place.
    file: [u64; 2],
}

impl OwnFile {
    fn new(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            file: which(path)?,
        })
    }
}

impl Drop for OwnFile {
    fn drop(&mut self) {
        if which(&self.path).is_ok_and(|file| file == self.file) {
            // Somebody may have removed it, which is what is wanted.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The device and the number of the file at `path`.
fn which(path: &Path) -> io::Result<[u64; 2]> {
    let file = fs::symlink_metadata(path)?;
    Ok([file.dev(), file.ino()])
}

/// Any kind of connection.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<IO: AsyncRead + AsyncWrite + Send + Unpin> Stream for IO {}

impl Listening {
    /// Listens on `place`. A Unix socket's file that nobody listens on is
    /// replaced.
    ///
    /// # Errors
    /// If it is taken, forbidden, or not of this machine.
    pub async fn bind(place: &Place) -> Result<Self, BindError> {
        let bind = |error| BindError {
            place: place.clone(),
            error,
        };
        match place {
            Place::Tcp(address) => {
                let socket = TcpListener::bind(address).await.map_err(bind)?;
                Self::tcp(socket).map_err(bind)
            }
            Place::Unix(path) => {
                remove_left_over(path).await.map_err(bind)?;
                let socket = UnixListener::bind(path).map_err(bind)?;
                Ok(Self {
                    socket: Socket::Unix(socket),
                    place: place.clone(),
                    _file: Some(OwnFile::new(path).map_err(bind)?),
                })
            }
        }
    }

    /// Whether a TCP socket could be bound to `place`, as far as can be told
    /// without listening: for whoever has to prepare what is not to be left
    /// behind for nothing.
    ///
    /// # Errors
    /// As [`Listening::bind`].
    pub fn is_free(place: &Place) -> Result<(), BindError> {
        let Place::Tcp(address) = place else {
            return Ok(());
        };
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        };
        let bound = socket.and_then(|socket| {
            socket.set_reuseaddr(true)?;
            socket.bind(*address)
        });
        bound.map_err(|error| BindError {
            place: place.clone(),
            error,
        })
    }

    /// Whether somebody may have handed sockets over, which are not taken yet.
    #[must_use]
    pub fn may_be_handed() -> bool {
        std::env::var_os("LISTEN_FDS").is_some()
    }

    /// Every socket that whoever started this process handed over. They can
    /// be taken once.
    ///
    /// # Errors
    /// If one of them is no listening socket.
    pub fn handed_over() -> io::Result<Vec<Self>> {
        let mut handed = ListenFd::from_env();
        let mut sockets = Vec::new();
        for place in 0..handed.len() {
            // Which kind it is only trying tells.
            let tcp = handed.take_tcp_listener(place);
            if let Ok(Some(socket)) = tcp {
                socket.set_nonblocking(true)?;
                sockets.push(Self::tcp(TcpListener::from_std(socket)?)?);
            } else if let Some(socket) = handed.take_unix_listener(place)? {
                socket.set_nonblocking(true)?;
                let address = socket.local_addr()?;
                let path = address.as_pathname().unwrap_or(Path::new("")).to_owned();
                sockets.push(Self {
                    socket: Socket::Unix(UnixListener::from_std(socket)?),
                    place: Place::Unix(path),
                    _file: None,
                });
            }
        }
        Ok(sockets)
    }

    fn tcp(socket: TcpListener) -> io::Result<Self> {
        let place = Place::Tcp(socket.local_addr()?);
        Ok(Self {
            socket: Socket::Tcp(socket),
            place,
            _file: None,
        })
    }

    /// Where it listens (the port that the system chose, for port 0).
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The next connection, and who makes it.
    pub(crate) async fn accept(&self) -> io::Result<(Box<dyn Stream>, String)> {
        match &self.socket {
            Socket::Tcp(socket) => {
                let (stream, peer) = socket.accept().await?;
                // Small answers must not wait for a full segment.
                let _ = stream.set_nodelay(true);
                mortal(&stream);
                Ok((Box::new(stream), peer.to_string()))
            }
            Socket::Unix(socket) => {
                let (stream, _) = socket.accept().await?;
                Ok((Box::new(stream), "a Unix socket".to_owned()))
            }
        }
    }
}

/// Has the kernel find out that a client is gone, or reads nothing at all any
/// more: a connection that nobody is at the other end of says nothing for ever.
pub(crate) fn mortal(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    let asks = TcpKeepalive::new()
        .with_time(GONE_AFTER)
        .with_interval(GONE_AFTER / 4);
    // Where the system cannot, the connection is as good as any other.
    let _ = socket.set_tcp_keepalive(&asks);
    #[cfg(target_os = "linux")]
    let _ = socket.set_tcp_user_timeout(Some(GONE_AFTER));
}

/// Removes the file of a socket whose process is gone. One that is listened
/// on stays, and binding to it then fails.
async fn remove_left_over(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(file) if file.file_type().is_socket() => {}
        // Nothing, or something that is not ours to remove.
        _ => return Ok(()),
    }
    match tokio::net::UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_ends_does_not_take_away_the_socket_that_another_has_put_in_its_place() {
        let home = tempfile::tempdir().expect("a temporary directory can be made");
        let path = home.path().join("ferry.sock");
        let place = Place::Unix(path.clone());
        let first = Listening::bind(&place).await.expect("it is free");
        // Whoever takes a place over does so by a rename, or as this does.
        fs::remove_file(&path).expect("it is there");
        let second = Listening::bind(&place).await.expect("it is free again");
        drop(first);
        assert!(path.exists(), "it is the second one's");
        drop(second);
        assert!(!path.exists(), "a socket's file goes with it");
    }
}
