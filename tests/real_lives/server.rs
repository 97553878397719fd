//! A Valkey process as a kubelet runs it: the Pod's own command, files and hook, below a directory of its own.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

/// What a container sees as these paths is below the directory of its process.
const PLACES: [&str; 2] = ["/etc/valkey", "/dev/shm"];

/// One process.
pub(crate) struct Server {
    child: Child,
    hook: Option<Child>,
    dir: PathBuf,
    /// Where it is.
    pub ip: IpAddr,
    pub started: Instant,
    /// The same by the clock on the wall.
    pub since: Timestamp,
}

impl Drop for Server {
    fn drop(&mut self) {
        for child in self.hook.iter_mut().chain([&mut self.child]) {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// A file of a volume: the path that the container sees, and what is in it.
pub(crate) type File = (String, Vec<u8>);

/// The directory of the server at this address.
pub(crate) fn dir(ip: IpAddr) -> PathBuf {
    std::env::temp_dir().join(format!("valkey-life-{ip}"))
}

/// Paths in this text as the process has them.
pub(crate) fn here(dir: &Path, text: &str) -> String {
    let place = |text: String, place: &&str| text.replace(*place, &format!("{}{place}", dir.display()));
    PLACES.iter().fold(text.to_owned(), place)
}

impl Server {
    /// Starts the server of a Pod at this address.
    pub(crate) fn start(program: &str, pod: &Pod, files: &[File], ip: IpAddr) -> Self {
        let dir = dir(ip);
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(here(&dir, "/dev/shm")).unwrap();
        let mut this = Self {
            child: Command::new("true").spawn().unwrap(),
            hook: None,
            dir,
            ip,
            started: Instant::now(),
            since: Timestamp::now(),
        };
        this.bring(files);
        let container = server(pod);
        let name = pod.name_any();
        let word = |text: &String| {
            here(&this.dir, &text.replace("$(POD_IP)", &ip.to_string()).replace("$(POD_NAME)", &name))
        };
        let command = container.command.iter().flatten().skip(1).map(word);
        // A container has a network of its own: here its address has to be named.
        let at = ip.to_string();
        let own = ["--bind", &at, "--bind-source-addr", &at];
        let log = fs::File::create(this.dir.join("log")).unwrap();
        let child = Command::new(program)
            .args(command)
            .args(own)
            .current_dir(&this.dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        let _ = this.child.wait();
        this.child = child.unwrap_or_else(|e| panic!("{program}: {e}"));
        this
    }

    /// The kubelet brings what the volumes hold now. As with the real one no file is ever seen half written.
    pub(crate) fn bring(&self, files: &[File]) {
        for (path, bytes) in files {
            let path = PathBuf::from(here(&self.dir, path));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            // Texts name other files; keys and certificates name none.
            let text = std::str::from_utf8(bytes).map(|text| here(&self.dir, text).into_bytes());
            let text = text.unwrap_or_else(|_| bytes.clone());
            if fs::read(&path).ok().as_ref() != Some(&text) {
                let aside = path.with_extension("new");
                fs::write(&aside, text).unwrap();
                fs::rename(aside, path).unwrap();
            }
        }
    }

    /// Whether it has ended.
    pub(crate) fn ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// What it ended with.
    pub(crate) fn code(&mut self) -> i32 {
        use std::os::unix::process::ExitStatusExt;
        let status = self.child.try_wait().unwrap().unwrap_or_default();
        status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
    }

    /// SIGKILL: it is gone afterwards.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// `STOP`, `CONT`, `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        let _ = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status();
    }

    /// Runs the preStop hook, once; whether it has ended.
    pub(crate) fn hold(&mut self, pod: &Pod) -> bool {
        let hook = self.hook.get_or_insert_with(|| hook(&self.dir, pod));
        hook.try_wait().unwrap().is_some()
    }

    /// What it said last.
    pub(crate) fn last_words(&self) -> String {
        let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

fn server(pod: &Pod) -> &Container {
    &pod.spec.as_ref().unwrap().containers[0]
}

fn hook(dir: &Path, pod: &Pod) -> Child {
    let hook =
        server(pod).lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref()?.exec.as_ref()?.command.clone());
    let words: Vec<String> = hook.into_iter().flatten().map(|word| here(dir, &word)).collect();
    let (program, words) = words.split_first().map_or(("true", &[] as &[String]), |(p, w)| (p, w));
    Command::new(program)
        .args(words)
        .env("POD_UID", pod.uid().unwrap_or_default())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}
