//! A real systemd, as pid 1 of namespaces of a test's own (tests/systemd/boot.sh): with units that the test writes, and a
//! bus of its own. It is up within a second, needs no image, and takes everything with it when it ends.
//!
//! Root only, with systemd and dbus installed and a cgroup file system that may be written to.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::{available, until};

/// With it: users with managers of their own.
const USERS: &str = "dbus-user-session and libpam-systemd (users with managers of their own)";
const NEEDED: &str = "root with systemd, dbus and namespaces (a systemd of the test's own)";

pub(crate) struct Machine {
    /// `unshare`, whose only child is pid 1 in there; that is killed with it.
    child: Child,
    dir: tempfile::TempDir,
    cgroup: PathBuf,
    init: u32,
}

impl Machine {
    /// Boots one; `None` if this machine cannot.
    pub(crate) fn boot() -> Option<Self> {
        Self::boot_as("")
    }

    /// The same with everything writable: users can be added, and files written, as on a machine.
    pub(crate) fn boot_writable() -> Option<Self> {
        let there = |path: &str| Path::new(path).exists();
        let pam = there("/usr/lib/pam.d/systemd-user") || there("/etc/pam.d/systemd-user");
        let users = pam && there("/usr/lib/systemd/user/dbus.socket") && there("/usr/sbin/useradd");
        available(USERS, users).then(|| Self::boot_as("writable"))?
    }

    fn boot_as(mode: &str) -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let Some(cgroups) = cgroups().filter(|_| usable()) else {
            available(NEEDED, false);
            return None;
        };
        let name = format!(
            "defib-test-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let cgroup = cgroups.join(name);
        fs::create_dir(&cgroup).unwrap();
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let boot = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/systemd/boot.sh");
        // A test that is killed must not leave a systemd behind.
        let enter = "echo $$ >\"$1/cgroup.procs\" && exec setpriv --pdeathsig KILL \
                     unshare -m -p -f -C -i -u -n --kill-child sh \"$2\" \"$3\" \"$4\" $5";
        let child = Command::new("sh")
            .args(["-c", enter, "sh"])
            .arg(&cgroup)
            .arg(boot)
            .arg(dir.path())
            .arg(env!("CARGO_BIN_EXE_defib"))
            .arg(mode)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut machine = Self {
            child,
            dir,
            cgroup,
            init: 0,
        };
        let up = machine.wait_for_bus();
        if !up {
            eprintln!(
                "it does not boot: {}",
                fs::read_to_string(machine.dir.path().join("log")).unwrap_or_default()
            );
        }
        available(NEEDED, up).then_some(machine)
    }

    fn wait_for_bus(&mut self) -> bool {
        for _ in 0..1000 {
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            if self.find_init()
                && self.bus().exists()
                && self.run(&["busctl", "status", "org.freedesktop.systemd1"]).0 == Some(0)
            {
                return true;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        false
    }

    fn find_init(&mut self) -> bool {
        let pid = self.child.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        self.init = children.trim().parse().unwrap_or(0);
        self.init != 0
    }

    /// The socket of its system bus, from outside.
    pub(crate) fn bus(&self) -> PathBuf {
        self.run_dir().join("dbus/system_bus_socket")
    }

    /// Its `/run`, from outside.
    pub(crate) fn run_dir(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root/run", self.init))
    }

    /// All its files, from outside.
    pub(crate) fn root(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.init))
    }

    /// Adds a user whose manager runs without a session, as `loginctl enable-linger` has it. Of one that is writable.
    pub(crate) fn add_user(&self, name: &'static str) -> User<'_> {
        for words in [
            &["useradd", "--create-home", name][..],
            &["loginctl", "enable-linger", name],
        ] {
            let (code, said) = self.run(words);
            assert_eq!(code, Some(0), "{words:?}: {said}");
        }
        let id = self.run(&["id", "-u", name]).1;
        let user = User {
            machine: self,
            name,
            runtime: format!("XDG_RUNTIME_DIR=/run/user/{id}"),
        };
        until("the user's manager is up", || {
            user.systemctl(&["is-active", "default.target"]).0 == Some(0)
        });
        user
    }

    /// The only directory of the host that can be written to in there, under the same name.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What a command line begins with so that it runs in there.
    pub(crate) fn wrapper(&self) -> Vec<String> {
        let target = self.init.to_string();
        ["nsenter", "-t", &target, "-m", "-p", "-C", "-n", "-r", "-w", "--"]
            .map(str::to_owned)
            .into()
    }

    /// Runs a command in there: exit code, and what it said.
    pub(crate) fn run(&self, words: &[&str]) -> (Option<i32>, String) {
        let wrapper = self.wrapper();
        let output = Command::new(&wrapper[0])
            .args(&wrapper[1..])
            .args(words)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        (
            output.status.code(),
            String::from_utf8_lossy(&said).trim().to_owned(),
        )
    }

    pub(crate) fn systemctl(&self, words: &[&str]) -> (Option<i32>, String) {
        self.run(&[&["systemctl", "--no-ask-password"], words].concat())
    }

    /// The same, which must succeed.
    pub(crate) fn must(&self, words: &[&str]) -> String {
        let (code, said) = self.systemctl(words);
        assert_eq!(code, Some(0), "systemctl {words:?}: {said}");
        said
    }

    /// Writes a unit, and has systemd read it.
    pub(crate) fn write_unit(&self, name: &str, text: &str) {
        let units = self.run_dir().join("systemd/system");
        fs::create_dir_all(&units).unwrap();
        fs::write(units.join(name), text).unwrap();
        self.must(&["daemon-reload"]);
    }

    /// Writes a service with these lines, and starts it.
    pub(crate) fn service(&self, name: &str, lines: &str) {
        self.write_unit(
            name,
            &format!("[Unit]\nStartLimitIntervalSec=0\n[Service]\n{lines}\n"),
        );
        self.must(&["start", name]);
    }

    /// One of its properties.
    pub(crate) fn show(&self, unit: &str, property: &str) -> String {
        self.must(&["show", unit, "--value", "-p", property])
    }

    /// Ends the processes of a unit as a crash would.
    pub(crate) fn crash(&self, unit: &str) {
        self.must(&["kill", "-s", "KILL", unit]);
    }

    /// Waits until a property is so.
    pub(crate) fn until(&self, unit: &str, property: &str, is_so: impl Fn(&str) -> bool) {
        until(&format!("{property} of {unit}"), || {
            is_so(&self.show(unit, property))
        });
    }

    /// Where polkit reads rules.
    pub(crate) fn rules(&self) -> PathBuf {
        self.dir.path().join("rules.d")
    }
}

/// A user of a machine, with a manager of its own.
pub(crate) struct User<'m> {
    machine: &'m Machine,
    name: &'static str,
    runtime: String,
}

impl User<'_> {
    /// Runs a command as that user.
    pub(crate) fn run(&self, words: &[&str]) -> (Option<i32>, String) {
        let home = format!("HOME=/home/{}", self.name);
        let path = "PATH=/usr/local/bin:/usr/bin:/bin";
        let setpriv = [
            "setpriv",
            "--reuid",
            self.name,
            "--regid",
            self.name,
            "--init-groups",
        ];
        let env = ["env", "-i", path, &home, &self.runtime];
        self.machine.run(&[&setpriv[..], &env, words].concat())
    }

    pub(crate) fn systemctl(&self, words: &[&str]) -> (Option<i32>, String) {
        self.run(&[&["systemctl", "--user"], words].concat())
    }

    /// The same, which must succeed.
    pub(crate) fn must(&self, words: &[&str]) -> String {
        let (code, said) = self.systemctl(words);
        assert_eq!(code, Some(0), "systemctl --user {words:?}: {said}");
        said
    }

    /// A property of one of the user's units.
    pub(crate) fn show(&self, unit: &str, property: &str) -> String {
        self.must(&["show", unit, "--value", "-p", property])
    }

    /// Writes a file of the user's, below the home directory.
    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = format!("/home/{}/{path}", self.name);
        let write = "mkdir -p \"$(dirname \"$1\")\" && printf %s \"$2\" >\"$1\"";
        let (code, said) = self.run(&["sh", "-c", write, "sh", &path, text]);
        assert_eq!(code, Some(0), "{path}: {said}");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // What was in there is gone with its pid 1, a moment later.
        for _ in 0..200 {
            if remove(&self.cgroup) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

fn remove(cgroup: &Path) -> bool {
    for entry in fs::read_dir(cgroup).into_iter().flatten().map_while(Result::ok) {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    fs::remove_dir(cgroup).is_ok()
}

fn usable() -> bool {
    let there = |path: &str| Path::new(path).exists();
    rustix::process::geteuid().is_root()
        && there("/lib/systemd/systemd")
        && there("/usr/bin/dbus-daemon")
        && there("/usr/bin/nsenter")
        && there("/usr/bin/setpriv")
        && there("/usr/bin/findmnt")
}

/// Where cgroups of version 2 are mounted.
fn cgroups() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "))?;
    Some(PathBuf::from(mount.split(' ').nth(4)?))
}
