//! Decides how the process talks to the API server: which time-outs, which retries, how often. Touches the network through
//! the clients that it makes.
//!
//! kube's default client retries a refused eviction (429) for minutes and waits without end for an answer that does not come.
//! That suits watches and nothing else, so there is one client for each manner of talking.

use std::num::NonZeroU32;
use std::time::Duration;

use hyper::header::USER_AGENT;
use kube::client::ClientBuilder;
use kube::{Client, Config};
use tower::limit::RateLimitLayer;

/// How long a connection may take to come up.
const CONNECT: Duration = Duration::from_secs(5);
/// How long the API server may take to answer.
const ANSWER: Duration = Duration::from_secs(15);
/// The server ends each watch after this; it is resumed where it ended. It bounds how long a connection that died without
/// a word is believed in (kube's own bound is 295 s).
pub const WATCH_ROUND: Duration = Duration::from_mins(1);
/// How much longer than [`WATCH_ROUND`] a watch may say nothing before its connection is given up.
const WATCH_GRACE: Duration = Duration::from_secs(15);

/// One client for each manner of talking to the API server. Cheap to clone.
#[derive(Clone)]
pub struct Clients {
    /// For watches: retried by kube, never slowed down.
    pub watch: Client,
    /// For everything else: an answer within 15 s or an error, nothing tried twice, bounded in rate.
    pub api: Client,
    /// For the lease alone, so that its renewal never waits behind a hundred clusters' requests.
    pub lease: Client,
}

/// Time-outs of the `api` and `lease` clients.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Until the connection is up.
    pub connect: Duration,
    /// Until the answer begins, and between its parts.
    pub answer: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: CONNECT, answer: ANSWER }
    }
}

/// Finds the API server: the kubeconfig (`KUBECONFIG`, `~/.kube/config`) outside a cluster, the service account inside.
///
/// # Errors
/// A sentence that says where it looked.
pub async fn config() -> anyhow::Result<Config> {
    Config::infer().await.map_err(|e| {
        anyhow::anyhow!(
            "no API server is configured: {e}; set KUBECONFIG, or run in a Pod with a service account"
        )
    })
}

/// Makes the clients. `qps` bounds the requests a second of the `api` client.
///
/// # Errors
/// When the configuration's certificates or credentials cannot be used.
pub fn clients(config: Config, qps: NonZeroU32, timeouts: Timeouts) -> anyhow::Result<Clients> {
    let config = with_user_agent(config)?;
    let mut watch = config.clone();
    watch.connect_timeout = Some(timeouts.connect);
    watch.read_timeout = Some(WATCH_ROUND + WATCH_GRACE);
    watch.reset_reader_on_write = true;
    let mut calls = config;
    calls.default_retry = false;
    calls.connect_timeout = Some(timeouts.connect);
    calls.read_timeout = Some(timeouts.answer);
    calls.reset_reader_on_write = true;
    Ok(Clients {
        watch: Client::try_from(watch)?,
        api: ClientBuilder::try_from(calls.clone())?.with_layer(&rate(qps)).build(),
        lease: Client::try_from(calls)?,
    })
}

impl Clients {
    /// The same client for everything, for an API server inside a test.
    pub fn all(client: &Client) -> Self {
        Self { watch: client.clone(), api: client.clone(), lease: client.clone() }
    }
}

/// At most `qps` requests in any period of one second that begins with a request; what is above waits for the next one.
///
/// A second, not less: the dozen requests that create a cluster go out together, while two hundred clusters queue up.
pub fn rate(qps: NonZeroU32) -> RateLimitLayer {
    RateLimitLayer::new(u64::from(qps.get()), Duration::from_secs(1))
}

fn with_user_agent(mut config: Config) -> anyhow::Result<Config> {
    let value = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")).parse()?;
    config.headers.push((USER_AGENT, value));
    Ok(config)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Instant;

    use k8s_openapi::api::core::v1::Pod;
    use kube::Api;
    use kube::api::EvictParams;
    use kube::client::Body;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tower::{Layer, Service, ServiceExt};

    use super::*;

    const QUICK: Timeouts =
        Timeouts { connect: Duration::from_millis(300), answer: Duration::from_millis(300) };

    /// A server that gives every request the same answer, or none, and counts requests.
    async fn server(
        answer: Option<&'static str>,
    ) -> (Clients, Arc<AtomicUsize>, Arc<std::sync::Mutex<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let (count, head) = (Arc::new(AtomicUsize::new(0)), Arc::new(std::sync::Mutex::new(String::new())));
        let (counted, seen) = (Arc::clone(&count), Arc::clone(&head));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (counted, seen) = (Arc::clone(&counted), Arc::clone(&seen));
                tokio::spawn(async move {
                    let mut buffer = vec![0; 4096];
                    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                        counted.fetch_add(1, Ordering::SeqCst);
                        *seen.lock().unwrap() = String::from_utf8_lossy(&buffer[..read]).to_lowercase();
                        let Some(answer) = answer else { continue };
                        stream.write_all(answer.as_bytes()).await.unwrap();
                    }
                });
            }
        });
        let _ = rustls::crypto::ring::default_provider().install_default();
        let clients = clients(Config::new(url), NonZeroU32::new(50).unwrap(), QUICK).unwrap();
        (clients, count, head)
    }

    #[tokio::test]
    async fn a_refused_eviction_is_an_answer_and_not_tried_again() {
        let refusal = "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 10\r\nContent-Length: 0\r\n\r\n";
        let (clients, count, head) = server(Some(refusal)).await;
        let began = Instant::now();
        let pods: Api<Pod> = Api::namespaced(clients.api, "ns");
        let error = pods.evict("p", &EvictParams::default()).await.unwrap_err();
        assert!(matches!(&error, kube::Error::Api(status) if status.code == 429), "{error}");
        assert_eq!(count.load(Ordering::SeqCst), 1);
        assert!(began.elapsed() < Duration::from_secs(5), "it did not wait for Retry-After");
        let agent = format!("user-agent: valkey-cluster-operator/{}", env!("CARGO_PKG_VERSION"));
        assert!(head.lock().unwrap().contains(&agent), "{}", head.lock().unwrap());
    }

    #[tokio::test]
    async fn a_silent_server_is_an_error_within_the_bound() {
        let (clients, _, _) = server(None).await;
        for client in [clients.api, clients.lease] {
            let pods: Api<Pod> = Api::namespaced(client, "ns");
            let began = Instant::now();
            let got = tokio::time::timeout(Duration::from_secs(10), pods.get("p")).await;
            assert!(got.expect("an answer within 10 s").is_err());
            assert!(began.elapsed() >= QUICK.answer);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_is_bounded_from_the_first_second_on() {
        let inner =
            tower::service_fn(|_: http::Request<Body>| async { Ok::<_, std::convert::Infallible>(()) });
        let mut service = rate(NonZeroU32::new(50).unwrap()).layer(inner);
        let began = tokio::time::Instant::now();
        let mut by_second = std::collections::BTreeMap::<u64, u32>::new();
        for _ in 0..200 {
            let request = http::Request::new(Body::empty());
            service.ready().await.unwrap().call(request).await.unwrap();
            *by_second.entry(began.elapsed().as_secs()).or_default() += 1;
        }
        assert!(by_second.values().all(|n| *n <= 50), "{by_second:?}");
        assert!(began.elapsed() <= Duration::from_secs(4), "no slower than asked: {:?}", began.elapsed());
    }
}
