//! Taking the addresses.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use defib::http::{self, BindError, Settings};
use defib::secret::Secret;
use tokio::time::timeout;

use super::{LONG, Served, loopback};

#[tokio::test]
async fn the_admin_socket_is_for_its_owner_and_group_and_goes_with_the_node() {
    let served = Served::with_admin(vec![]);
    let socket = served.socket.clone().unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&socket), 0o660);
    assert_eq!(mode(socket.parent().unwrap()) & !0o750, 0);
    let names: Vec<_> = std::fs::read_dir(socket.parent().unwrap())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(names, ["admin.sock"]);
    let kept = served.directory.path().to_owned();
    served.cancel.cancel();
    timeout(LONG, served.serving).await.unwrap().unwrap().unwrap();
    assert!(!socket.exists(), "{}", kept.display());
}

#[test]
fn a_dead_nodes_socket_is_replaced_and_a_living_ones_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin.sock");
    let settings = Settings {
        admin_socket: Some(path.clone()),
        ..loopback()
    };

    drop(std::os::unix::net::UnixListener::bind(&path).unwrap()); // leaves its file
    let stale = std::fs::symlink_metadata(&path).unwrap().ino();
    let first = http::bind(&settings).unwrap();
    assert!(
        std::os::unix::net::UnixStream::connect(&path).is_ok(),
        "replaced {stale}"
    );

    let second = http::bind(&settings).unwrap_err();
    assert!(matches!(second, BindError::SocketInUse(_)), "{second}");
    assert!(
        second.to_string().contains("in use by a running process"),
        "{second}"
    );
    assert!(std::os::unix::net::UnixStream::connect(&path).is_ok());
    drop(first);
    assert!(!path.exists());

    std::fs::write(&path, "precious").unwrap();
    let in_the_way = http::bind(&settings).unwrap_err();
    assert!(matches!(in_the_way, BindError::NotASocket(_)), "{in_the_way}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn what_cannot_be_bound_is_said_with_its_cure() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap();
    let error = http::bind(&Settings { listen, ..loopback() })
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(&listen.to_string()) && error.contains("choose another address"),
        "{error}"
    );

    let admin = |address: &str, token: Secret| {
        let admin_listen = Some((address.parse().unwrap(), token));
        http::bind(&Settings {
            admin_listen,
            ..loopback()
        })
        .unwrap_err()
    };
    let open = admin("0.0.0.0:0", Secret::Inline("t".to_owned()));
    assert!(matches!(open, BindError::NotLoopback(_)), "{open}");
    assert!(matches!(
        admin("127.0.0.1:0", Secret::Inline(String::new())),
        BindError::EmptyToken
    ));
    let unset = admin(
        "127.0.0.1:0",
        Secret::Env("DEFIB_TEST_NO_SUCH_VARIABLE".to_owned()),
    );
    assert!(
        unset.to_string().contains("DEFIB_TEST_NO_SUCH_VARIABLE"),
        "{unset}"
    );

    let deep = PathBuf::from(format!("/tmp/{}/admin.sock", "x".repeat(200)));
    let error = http::bind(&Settings {
        admin_socket: Some(deep.clone()),
        ..loopback()
    })
    .unwrap_err();
    assert!(error.to_string().contains("admin_socket"), "{error}");
    let _ = std::fs::remove_dir(deep.parent().unwrap());
}
