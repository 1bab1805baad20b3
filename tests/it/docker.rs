//! The leaf against a Docker API that misbehaves, and over TLS with certificates on both sides.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use defib::docker::{Discover, Docker, Error, Found, Host, Identity, Selector, Settings};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio_rustls::TlsAcceptor;

const VERSION: &str = r#"{"ApiVersion": "1.41", "Version": "20.10.24"}"#;
const CONTAINER: &str =
    r#"{"Id": "abc", "Name": "/app", "State": {"Status": "running", "StartedAt": "2026-11-22T06:00:00Z"}}"#;

#[derive(Clone, Copy)]
enum Answer {
    Body(&'static str),
    Status500,
    Hang,
    Truncated,
    /// Never ends.
    Huge,
    /// A head that never ends.
    HugeHead,
    Garbage,
    Close,
}

/// Answers one request. The version is always told.
async fn answer(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), how: Answer) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => request.push(byte),
            Err(_) => return,
        }
    }
    let request = String::from_utf8(request).unwrap();
    assert!(request.contains("host: docker\r\n"), "{request}");
    let how = if request.starts_with("GET /version ") {
        Answer::Body(VERSION)
    } else {
        how
    };
    let head = |status: &str, length: usize| {
        format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n")
    };
    let text = match how {
        Answer::Body(body) => head("200 OK", body.len()) + body,
        Answer::Status500 => head("500 Internal Server Error", 21) + r#"{"message": "broken"}"#,
        Answer::Truncated => head("200 OK", 10_000) + CONTAINER,
        Answer::Garbage => head("200 OK", 9) + "not json!",
        Answer::Close => return,
        Answer::Hang => std::future::pending().await,
        Answer::Huge | Answer::HugeHead => {
            let mut begin = head("200 OK", usize::MAX >> 1);
            if matches!(how, Answer::HugeHead) {
                begin.truncate(begin.len() - 2);
                begin.push_str("x-long: ");
            } else {
                begin.push_str(r#"{"Id": ""#);
            }
            let _ = stream.write_all(begin.as_bytes()).await;
            // Until it is not listened to any more.
            while stream.write_all(&[b'x'; 4096]).await.is_ok() {}
            return;
        }
    };
    let _ = stream.write_all(text.as_bytes()).await;
    let _ = stream.shutdown().await;
}

/// An engine that answers everything so.
fn engine(how: Answer) -> (Docker, tempfile::TempDir, tokio::task::JoinHandle<()>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("docker.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let serving = tokio::spawn(async move {
        let mut open = tokio::task::JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            open.spawn(async move { answer(&mut stream, how).await });
        }
    });
    (at(&path), dir, serving)
}

fn at(path: &Path) -> Docker {
    Docker::new(Settings {
        host: Host::Unix(path.to_owned()),
        timeout: Duration::from_millis(700),
        discover: Discover::Off,
    })
}

#[tokio::test]
async fn s38_an_engine_that_misbehaves_costs_bounded_time_and_memory_and_is_told() {
    for (how, word) in [
        (Answer::Status500, "(500): broken"),
        (Answer::Hang, "has not answered within 700ms"),
        (Answer::Truncated, "cannot be used"),
        (Answer::Huge, "longer than 8388608 bytes"),
        (Answer::HugeHead, "cannot be used"),
        (Answer::Garbage, "cannot be used"),
        (Answer::Close, "cannot be used"),
        (Answer::Body(r#"{"Id": "abc"}"#), "without a state"),
        (Answer::Body("null"), "cannot be used"),
    ] {
        let (docker, _dir, serving) = engine(how);
        let error = docker.inspect("app").await.unwrap_err();
        assert!(error.with_cure().contains(word), "{word}: {error}");
        assert!(!error.nothing_done() && !error.is_missing(), "{error:?}");
        let selector = Selector::label("app=feed").unwrap();
        let (found, followed) = tokio::join!(docker.find(&selector), docker.events(&selector));
        assert!(found.is_err(), "{word}");
        if let Ok(mut events) = followed {
            let next = tokio::time::timeout(Duration::from_secs(20), events.next());
            assert!(next.await.is_ok_and(|next| next.is_err()), "{word}");
        }
        serving.abort();
    }
}

/// The bound on one answer is reached in the middle of an event. What happens until the next one is asked for is told.
#[tokio::test]
async fn no_event_is_lost_where_one_answer_ends_and_the_next_begins() {
    let event = |number: u64| {
        format!(
            r#"{{"Type": "container", "Action": "kill", "Actor": {{"ID": "abc", "Attributes": {{"signal": "28", "x": "{}"}}}},
                "timeNano": {}}}"#,
            "y".repeat(500),
            1_795_000_000_000_000_000 + number
        )
        .replace('\n', " ")
            + "\n"
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("docker.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let serving = tokio::spawn(async move {
        let mut asked = Vec::new();
        while asked.len() < 2 {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            let request = String::from_utf8(request).unwrap();
            if request.starts_with("GET /version ") {
                let head = format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                    VERSION.len()
                );
                stream.write_all((head + VERSION).as_bytes()).await.unwrap();
                continue;
            }
            asked.push(request);
            let head =
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
            let _ = stream.write_all(head.as_bytes()).await;
            // The first never ends; the second tells the rest.
            let numbers = if asked.len() == 1 {
                0..u64::MAX
            } else {
                1_000_000..1_000_003
            };
            for number in numbers {
                let text = event(number);
                let chunk = format!("{:x}\r\n{text}\r\n", text.len());
                if stream.write_all(chunk.as_bytes()).await.is_err() {
                    break;
                }
            }
            if asked.len() == 2 {
                return (asked, stream);
            }
        }
        unreachable!()
    });
    let mut events = at(&path).events(&Selector::name("app").unwrap()).await.unwrap();
    let mut last = 0;
    for _ in 0..10_000 {
        let at = events.next().await.unwrap().at.unwrap() - 1_795_000_000_000_000_000;
        if at >= 1_000_000 {
            break;
        }
        last = at;
    }
    assert!(
        (1000..2500).contains(&last),
        "{last} of 600 bytes are within a MiB"
    );
    let (asked, _open) = serving.await.unwrap();
    assert!(!asked[0].contains("since="), "{}", asked[0]);
    let since = format!("since=1795000000.{last:09}&");
    assert!((asked[1].clone() + "&").contains(&since), "{since}: {}", asked[1]);
    assert!(asked[1].contains("filters="), "{}", asked[1]);
}

#[tokio::test]
async fn s38_an_engine_that_is_not_there_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("docker.sock");
    let refused = |docker: Docker| async move {
        let error = docker.restart("abc", Duration::from_secs(1)).await.unwrap_err();
        assert!(matches!(error, Error::Connect { .. }), "{error:?}");
        assert!(error.nothing_done());
        error.with_cure()
    };
    assert!(refused(at(&path)).await.contains("mount the socket"));
    drop(UnixListener::bind(&path).unwrap());
    assert!(refused(at(&path)).await.contains("start Docker"));
}

#[tokio::test]
async fn nothing_but_a_name_gets_into_a_path() {
    let (docker, _dir, serving) = engine(Answer::Body(CONTAINER));
    assert_eq!(docker.inspect("app").await.unwrap().name, "app");
    for wrong in ["", "../images/json", "a?x=1", "a/../../b", "a b", "a\r\nX: y"] {
        assert!(docker.inspect(wrong).await.is_err(), "{wrong:?}");
    }
    serving.abort();
}

#[tokio::test]
async fn tls_with_certificates_on_both_sides() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: String| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let authority = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let client = rcgen::generate_simple_self_signed(vec!["defib".to_owned()]).unwrap();
    let ca = file("ca.pem", authority.cert.pem());
    let identity = Identity {
        cert: file("cert.pem", client.cert.pem()),
        key: file("key.pem", client.signing_key.serialize_pem()),
    };

    let mut known = rustls::RootCertStore::empty();
    known.add(client.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(known), provider.clone()).build();
    let key = PrivateKeyDer::try_from(authority.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.unwrap())
        .with_single_cert(vec![authority.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(mut stream) = acceptor.accept(stream).await {
                answer(&mut stream, Answer::Body(CONTAINER)).await;
            }
        }
    });
    let docker = |identity, ca: &Path| {
        Docker::new(Settings {
            host: Host::Tls {
                host: "localhost".to_owned(),
                port,
                ca: ca.to_owned(),
                identity,
            },
            timeout: Duration::from_secs(20),
            discover: Discover::Off,
        })
    };
    let found = docker(Some(identity.clone()), &ca)
        .find(&Selector::name("app").unwrap())
        .await;
    assert!(matches!(found.unwrap(), Found::One(_)));
    assert!(
        docker(None, &ca).inspect("app").await.is_err(),
        "no certificate of ours"
    );
    let stranger = docker(Some(identity.clone()), &identity.cert)
        .inspect("app")
        .await;
    assert!(
        stranger.unwrap_err().to_string().contains("TLS"),
        "not the engine that is meant"
    );
    let lost = docker(Some(identity), Path::new("/no/such/ca.pem"))
        .inspect("app")
        .await;
    assert!(
        lost.unwrap_err()
            .to_string()
            .contains("cannot read /no/such/ca.pem")
    );
    serving.abort();
}
