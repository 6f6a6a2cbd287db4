//! Load for the tests that kill processes: publishers, a flaky customer, and checks of the events that arrived.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

const LANES: usize = 8;
const PUBLISHERS: usize = 4;

/// Returns the number of rounds of a test that kills processes: 20 unless `WHK_TORTURE_ROUNDS` is set.
pub(crate) fn rounds() -> usize {
    std::env::var("WHK_TORTURE_ROUNDS").map_or(20, |rounds| rounds.parse().unwrap())
}

/// A pseudo-random generator with a fixed seed, so that each run has the same numbers.
pub(crate) struct FixedRandom(pub(crate) u64);

impl FixedRandom {
    /// Returns the next number, which is less than `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        // Xorshift (Marsaglia, 2003).
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// A customer that answers a fifth of all requests with 500, and keeps the ids that it accepted, by lane.
pub(crate) struct FlakyCustomer {
    pub(crate) port: u16,
    taken: Arc<Mutex<HashMap<String, Vec<String>>>>,
}

impl FlakyCustomer {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let taken = Arc::new(Mutex::new(HashMap::<String, Vec<String>>::new()));
        let random = Arc::new(Mutex::new(FixedRandom(0x5eed)));
        let shared = Arc::clone(&taken);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (taken, random) = (Arc::clone(&shared), Arc::clone(&random));
                thread::spawn(move || Self::serve(stream, &taken, &random));
            }
        });
        Self { port, taken }
    }

    /// Answers the requests of one connection until it is closed.
    fn serve(
        mut stream: TcpStream,
        taken: &Mutex<HashMap<String, Vec<String>>>,
        random: &Mutex<FixedRandom>,
    ) {
        let mut bytes = Vec::new();
        let mut chunk = [0; 65_536];
        loop {
            let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
                match stream.read(&mut chunk) {
                    Ok(read) if read > 0 => bytes.extend(&chunk[..read]),
                    _ => return,
                }
                continue;
            };
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let header = |name: &str| {
                let mut lines = head.lines().filter_map(|line| line.split_once(": "));
                lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).unwrap().1.to_owned()
            };
            let whole = end + 4 + header("content-length").parse::<usize>().unwrap();
            while bytes.len() < whole {
                match stream.read(&mut chunk) {
                    Ok(read) if read > 0 => bytes.extend(&chunk[..read]),
                    _ => return,
                }
            }
            bytes.drain(..whole);
            let lane = head.split(' ').nth(1).unwrap().to_owned();
            let fails = random.lock().unwrap().below(5) == 0;
            if !fails {
                taken.lock().unwrap().entry(lane).or_default().push(header("webhook-id"));
            }
            let status = if fails { "500 Internal Server Error" } else { "204 No Content" };
            let end = if fails { "content-length: 0\r\n" } else { "" };
            if stream.write_all(format!("HTTP/1.1 {status}\r\n{end}\r\n").as_bytes()).is_err() {
                return;
            }
        }
    }

    /// Returns the accepted ids of each lane, in the order of arrival.
    pub(crate) fn taken(&self) -> HashMap<String, Vec<String>> {
        self.taken.lock().unwrap().clone()
    }
}

/// Publishes one event to `url` for `target` and returns its message id.
///
/// The error is the status of an answer other than 202, or `None` if no answer came.
fn publish(port: u16, url: &str, target: &str) -> Result<String, Option<String>> {
    let (status, body) = answer(port, url, target).ok_or(None)?;
    if status != "202" {
        return Err(Some(status));
    }
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    Ok(body["messages"][0]["id"].as_str().unwrap().to_owned())
}

/// Sends the publish request and returns the status and body, if a response came.
fn answer(port: u16, url: &str, target: &str) -> Option<(String, String)> {
    let body = format!(r#"{{"url":"{url}","target":"{target}","payload":"x"}}"#);
    let head =
        "POST /publish HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-type: application/json\r\n";
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(format!("{head}content-length: {}\r\n\r\n{body}", body.len()).as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.to_owned(), body.to_owned()))
}

/// Threads that publish without pause, each to its own lanes.
pub(crate) struct Publishers {
    stop: Arc<AtomicBool>,
    /// Ids that were answered 202, by lane, in order.
    accepted: Arc<Mutex<HashMap<String, Vec<String>>>>,
    /// Statuses of the answers other than 202.
    refused: Arc<Mutex<BTreeSet<String>>>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Publishers {
    pub(crate) fn start(customer: u16, port: u16) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let accepted = Arc::new(Mutex::new(HashMap::<String, Vec<String>>::new()));
        let refused = Arc::new(Mutex::new(BTreeSet::new()));
        let publishing = |number: usize| {
            let (stop, accepted) = (Arc::clone(&stop), Arc::clone(&accepted));
            let refused = Arc::clone(&refused);
            thread::spawn(move || {
                let mut lanes = (0..LANES).filter(|lane| lane % PUBLISHERS == number).cycle();
                while !stop.load(Ordering::Relaxed) {
                    let lane = format!("/{}", lanes.next().unwrap());
                    let url = format!("http://127.0.0.1:{customer}{lane}");
                    match publish(port, &url, &lane) {
                        Ok(id) => accepted.lock().unwrap().entry(lane).or_default().push(id),
                        // The server, or a service that it needs, is being restarted.
                        Err(status) => {
                            refused.lock().unwrap().extend(status);
                            thread::sleep(Duration::from_millis(2));
                        }
                    }
                }
            })
        };
        let threads = (0..PUBLISHERS).map(publishing).collect();
        Self { stop, accepted, refused, threads }
    }

    /// Returns the statuses of the answers other than 202.
    pub(crate) fn refused(&self) -> BTreeSet<String> {
        self.refused.lock().unwrap().clone()
    }

    /// Stops the threads and returns the accepted ids of each lane, in order.
    pub(crate) fn stop(self) -> HashMap<String, Vec<String>> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        Arc::into_inner(self.accepted).unwrap().into_inner().unwrap()
    }
}

/// Returns the ids without repetitions, in the order of their first arrival.
pub(crate) fn deduped(ids: &[String]) -> Vec<&String> {
    let mut seen = HashSet::new();
    ids.iter().filter(|id| seen.insert(*id)).collect()
}

/// Returns the accepted ids that the customer hasn't received.
pub(crate) fn missing(accepted: &HashMap<String, Vec<String>>, customer: &FlakyCustomer) -> Vec<String> {
    let taken = customer.taken();
    let of_lane = |(lane, ids): (&String, &Vec<String>)| -> Vec<String> {
        let taken: HashSet<&String> = taken.get(lane).into_iter().flatten().collect();
        ids.iter().filter(|id| !taken.contains(id)).cloned().collect()
    };
    accepted.iter().flat_map(of_lane).collect()
}

/// Returns the number of repeated deliveries.
pub(crate) fn count_repeated(taken: &HashMap<String, Vec<String>>) -> usize {
    taken.values().map(|ids| ids.len() - deduped(ids).len()).sum()
}

/// Asserts that each lane's accepted events arrived in order, repetitions aside.
pub(crate) fn assert_in_order(accepted: &HashMap<String, Vec<String>>, taken: &HashMap<String, Vec<String>>) {
    for (lane, ids) in accepted {
        let known: HashSet<&String> = ids.iter().collect();
        let came: Vec<&String> = deduped(&taken[lane]).into_iter().filter(|id| known.contains(id)).collect();
        assert!(came.iter().eq(&ids.iter().collect::<Vec<_>>()), "lane {lane} is out of order");
    }
}
