//! The queue on disk: a full disk, a data dir in use, jobs that survive a restart.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use crate::support::{
    Api, FAILS, NOWHERE, OK, RawCustomer, Server, fixture, publish, publish_to, run, stderr, wait_until, whk,
};

/// Starts a server in direct mode with its queue in `data_dir`.
fn start(data_dir: &Path, more: &[&str]) -> Server {
    let mut command = whk(&["publish-server", "--port", "0", "--log-format", "json", "--data-dir"]);
    command.arg(data_dir).arg("--public-key").arg(fixture("keys/public_key.pem"));
    command.args(["--allow-net", "127.0.0.0/8", "--retry-delays", "200", "--max-retries", "1000"]).args(more);
    Server::start(command)
}

/// A small file system, which is unmounted when this is dropped.
struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    /// Mounts a file system of `mebibytes`. Returns `None` if the user may not mount.
    fn mount(mebibytes: u32) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let options = format!("size={mebibytes}m,mode=700");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(folder.path()).output();
        mounted.is_ok_and(|output| output.status.success()).then_some(Self { folder })
    }

    fn grow(&self, mebibytes: u32) {
        let options = format!("remount,size={mebibytes}m");
        let status = Command::new("mount").args(["-o", &options]).arg(self.folder.path()).status();
        assert!(status.unwrap().success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("--lazy").arg(self.folder.path()).status());
    }
}

#[test]
fn a_full_disk_answers_503_and_deliveries_continue_until_there_is_room() {
    let Some(disk) = SmallDisk::mount(24) else {
        assert!(std::env::var_os("CI").is_none(), "this test needs root, to mount a small file system");
        eprintln!("skipped: this test needs root, to mount a small file system");
        return;
    };
    let payload = format!("\"{}\"", "x".repeat(100_000));
    let body = format!(r#"{{"url":"{NOWHERE}","payload":{payload}}}"#);
    let mut accepted = 0;
    {
        let server = start(disk.folder.path(), &[]);
        let refused = loop {
            let answer = publish(&server, &body);
            if answer.status != 202 {
                break answer;
            }
            accepted += 1;
            assert!(accepted < 1_000, "the disk must fill up");
        };
        assert_eq!((refused.status, refused.headers["retry-after"].as_str()), (503, "1"), "{refused:?}");
        refused.problem();
        assert!(accepted > 20, "{accepted}");
        server.wait_for_log("the disk is full");
        assert_eq!(server.queued_jobs(), accepted, "refused events must not be queued");
        // The reserved space is released: queued jobs are still retried and settled, new events are refused.
        wait_until("more retries", || server.metric("whk_retries_total") > accepted / 4);
        assert_eq!(publish(&server, &body).status, 503);
        disk.grow(64);
        wait_until("an accepted event", || publish(&server, &body).status == 202);
        accepted += 1;
        server.wait_for_log("has room again");
        let mut server = server;
        server.signal("KILL");
        server.wait();
    }
    let server = start(disk.folder.path(), &[]);
    assert_eq!(server.queued_jobs(), accepted);
}

#[test]
fn queued_jobs_survive_a_restart_and_a_second_process_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = start(folder.path(), &[]);
    let port = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap().port()
    };
    let url = format!("http://127.0.0.1:{port}/webhook");
    let ids: Vec<String> = (0..5).map(|_| publish_to(&server, &url, "1")).collect();
    let second = run(&["publish-server", "--port", "0", "--data-dir", folder.path().to_str().unwrap()]);
    assert_eq!(second.status.code(), Some(69), "{}", stderr(&second));
    assert!(stderr(&second).contains("in use by another whk"), "{}", stderr(&second));
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0), "{}", server.log());
    assert!(server.log().contains("keeps what is left for the next start"), "{}", server.log());

    let server = start(folder.path(), &[]);
    assert!(server.log().contains("the queue continues with stored jobs"), "{}", server.log());
    let customer = RawCustomer::start_on(port, |stream, _| drop(stream.write_all(OK.as_bytes())));
    let mut left: Vec<String> = ids;
    while !left.is_empty() {
        let id = &customer.request().headers["webhook-id"];
        left.retain(|left| left != id);
    }
    wait_until("an empty queue", || server.queued_jobs() == 0);
}

#[test]
fn an_unusable_queue_is_refused_with_the_reason() {
    let open = |damage: &dyn Fn(&Path)| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap().to_owned();
        let mut server = start(folder.path(), &[]);
        server.signal("TERM");
        server.wait();
        damage(folder.path());
        run(&["publish-server", "--port", "0", "--data-dir", &path])
    };
    let newer = open(&|folder| {
        let database = rusqlite::Connection::open(folder.join("queue.db")).unwrap();
        database.pragma_update(None, "user_version", 99).unwrap();
    });
    assert_eq!(newer.status.code(), Some(64), "{}", stderr(&newer));
    assert!(stderr(&newer).contains("newer whk"), "{}", stderr(&newer));
    let foreign = open(&|folder| {
        // The write-ahead log exists only if the process ended before it was merged into the database.
        drop(std::fs::remove_file(folder.join("queue.db-wal")));
        std::fs::write(folder.join("queue.db"), "x".repeat(8_192)).unwrap();
    });
    assert_eq!(foreign.status.code(), Some(1), "{}", stderr(&foreign));
    assert!(stderr(&foreign).contains("open queue"), "{}", stderr(&foreign));
}

#[test]
fn a_job_that_blocks_its_lane_for_too_long_is_dead_lettered() {
    for queue in ["disk", "memory"] {
        let accepts = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let answers = std::sync::Arc::clone(&accepts);
        let customer = RawCustomer::start(move |stream, _| {
            let accepts = answers.load(std::sync::atomic::Ordering::Relaxed);
            drop(stream.write_all(if accepts { OK } else { FAILS }.as_bytes()));
        });
        let folder = tempfile::tempdir().unwrap();
        let flags = ["--queue", queue, "--ordered", "--max-lane-block", "700ms"];
        let server = start(folder.path(), &flags);
        let ids: Vec<String> = (0..2).map(|_| publish_to(&server, &customer.url(), "1")).collect();
        let began = std::time::Instant::now();
        while customer.request().headers["webhook-id"] == ids[0] {}
        assert!(began.elapsed().as_millis() >= 500, "{queue}: the first job was given up too early");
        accepts.store(true, std::sync::atomic::Ordering::Relaxed);
        server.wait_for_metric("whk_jobs_delivered_total", 1);
        let key = std::fs::read_to_string(folder.path().join("provider_key.txt")).unwrap();
        let api = Api { port: server.port, key };
        let letters = api.get("/dead-letters").json();
        assert_eq!(letters["data"][0]["cause"], "blocked", "{queue}: {letters}");
        assert_eq!(letters["data"][0]["id"], ids[0].as_str());
        assert_eq!(api.get(&format!("/messages/{}", ids[1])).json()["state"], "delivered", "{queue}");
    }
}
