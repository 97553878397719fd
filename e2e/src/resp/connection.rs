//! Decides how one node is talked to: one TCP connection, commands in order, every wait bounded.
//! May open sockets, through the connector it is given and nothing else.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::parser::{Reply, encode, parse};

/// A connection, whatever is between.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// One end of an open connection.
pub type Socket = Box<dyn Stream>;

/// Opens the connection to an address: directly, from inside a network namespace, by TLS.
pub type Connector = Arc<dyn Fn(SocketAddr) -> BoxFuture<'static, io::Result<Socket>> + Send + Sync>;

/// The connector of a process that reaches the nodes by itself.
pub fn direct() -> Connector {
    Arc::new(|addr| Box::pin(async move { Ok(plain(TcpStream::connect(addr).await?)) }))
}

/// A TCP connection as one end.
pub fn plain(stream: TcpStream) -> Socket {
    // Best effort: a socket without it is slower, not wrong.
    let _ = stream.set_nodelay(true);
    Box::new(stream)
}

/// A user and password for AUTH. Neither is ever printed.
#[derive(Clone, Default)]
pub struct Credentials {
    /// The ACL user; `None` means the default user.
    pub user: Option<String>,
    /// The password; `None` means that no AUTH is sent.
    pub password: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

/// How nodes are reached: where sockets come from and who logs in.
#[derive(Clone)]
pub struct Access {
    /// Where sockets come from.
    pub connector: Connector,
    /// Whether a library that opens its own sockets must go through a relay to use the connector.
    pub relayed: bool,
    /// Who logs in.
    pub credentials: Credentials,
    /// What the way to a node may add to the time of any answer: nothing for a socket of this machine, some seconds
    /// for a detour through an API server. Whoever bounds an answer adds it.
    pub slack: Duration,
}

impl Default for Access {
    fn default() -> Self {
        Self {
            connector: direct(),
            relayed: false,
            credentials: Credentials::default(),
            slack: Duration::ZERO,
        }
    }
}

impl Access {
    /// Through this connector, without a login.
    pub fn through(connector: Connector) -> Self {
        Self { connector, relayed: true, ..Self::default() }
    }

    /// With this slack.
    #[must_use]
    pub fn with_slack(self, slack: Duration) -> Self {
        Self { slack, ..self }
    }

    /// With this login.
    #[must_use]
    pub fn with_login(self, credentials: Credentials) -> Self {
        Self { credentials, ..self }
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("credentials", &self.credentials).finish_non_exhaustive()
    }
}

/// Why a command got no reply. A reply that is an error of the server is a [`Reply::Error`] and not a fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Nobody listens: the process is gone or not yet there.
    #[error("connection refused")]
    Refused,
    /// The connection broke.
    #[error("connection closed by the other side")]
    Reset,
    /// No answer in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The server refused the login.
    #[error("login refused: {0}; give a user and password that the server knows")]
    Denied(String),
    /// The bytes were not RESP2.
    #[error("not a Valkey server: it sent {0}")]
    Protocol(String),
    /// Anything else that the operating system says.
    #[error("{0}")]
    Other(String),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind as Kind;
        match error.kind() {
            Kind::ConnectionRefused => Self::Refused,
            Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe | Kind::UnexpectedEof => {
                Self::Reset
            }
            _ => Self::Other(error.to_string()),
        }
    }
}

/// One open, logged-in connection. After a fault it is of no further use: drop it.
pub struct Connection {
    stream: Socket,
    received: Vec<u8>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

impl Connection {
    /// Connects and logs in, both together within `limit`.
    ///
    /// # Errors
    /// A [`Fault`]; `Denied` if the server does not take the credentials.
    pub async fn open(access: &Access, addr: SocketAddr, limit: Duration) -> Result<Self, Fault> {
        timeout(limit, Self::connect(access, addr)).await.unwrap_or(Err(Fault::Timeout(limit)))
    }

    async fn connect(access: &Access, addr: SocketAddr) -> Result<Self, Fault> {
        let stream = (access.connector)(addr).await?;
        let mut this = Self { stream, received: Vec::new() };
        if let Some(password) = &access.credentials.password {
            let user = access.credentials.user.as_deref().unwrap_or("default");
            if let Reply::Error(text) = this.exchange(&["AUTH", user, password]).await? {
                return Err(Fault::Denied(text));
            }
        }
        Ok(this)
    }

    /// Sends one command and waits at most `limit` for its reply.
    ///
    /// # Errors
    /// A [`Fault`] when there is no reply; the command may have been carried out nevertheless.
    pub async fn call<A: AsRef<str>>(&mut self, args: &[A], limit: Duration) -> Result<Reply, Fault> {
        timeout(limit, self.exchange(args)).await.unwrap_or(Err(Fault::Timeout(limit)))
    }

    /// Sends several commands at once and waits at most `limit` for all replies, in order.
    ///
    /// # Errors
    /// A [`Fault`] when not every reply came.
    pub async fn pipeline(&mut self, commands: &[&[&str]], limit: Duration) -> Result<Vec<Reply>, Fault> {
        let work = async {
            let mut out = Vec::new();
            for command in commands {
                encode(command, &mut out);
            }
            self.stream.write_all(&out).await?;
            let mut replies = Vec::with_capacity(commands.len());
            for _ in commands {
                replies.push(self.read().await?);
            }
            Ok(replies)
        };
        timeout(limit, work).await.unwrap_or(Err(Fault::Timeout(limit)))
    }

    async fn exchange<A: AsRef<str>>(&mut self, args: &[A]) -> Result<Reply, Fault> {
        let mut out = Vec::with_capacity(64);
        encode(args, &mut out);
        self.stream.write_all(&out).await?;
        self.read().await
    }

    async fn read(&mut self) -> Result<Reply, Fault> {
        loop {
            if let Some((reply, used)) = parse(&self.received).map_err(Fault::Protocol)? {
                self.received.drain(..used);
                return Ok(reply);
            }
            if self.stream.read_buf(&mut self.received).await? == 0 {
                return Err(Fault::Reset);
            }
        }
    }
}
