//! Load for the tests that kill processes: publishers, a customer that fails now and then, and the count of what arrived.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

const LANES: usize = 8;
const PUBLISHERS: usize = 4;

pub(crate) fn rounds() -> usize {
    std::env::var("WHK_TORTURE_ROUNDS").map_or(20, |rounds| rounds.parse().unwrap())
}

/// Numbers that look random and are the same each time.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        // Xorshift (Marsaglia, 2003).
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// A customer that answers every fifth request with 500, and remembers the ids that it took, by lane.
pub(crate) struct Flaky {
    pub(crate) port: u16,
    taken: Arc<Mutex<HashMap<String, Vec<String>>>>,
}

impl Flaky {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let taken = Arc::new(Mutex::new(HashMap::<String, Vec<String>>::new()));
        let dice = Arc::new(Mutex::new(Dice(0x5eed)));
        let shared = Arc::clone(&taken);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (taken, dice) = (Arc::clone(&shared), Arc::clone(&dice));
                thread::spawn(move || Self::serve(stream, &taken, &dice));
            }
        });
        Self { port, taken }
    }

    /// Answers requests on one connection, as long as it lasts.
    fn serve(mut stream: TcpStream, taken: &Mutex<HashMap<String, Vec<String>>>, dice: &Mutex<Dice>) {
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
            let fails = dice.lock().unwrap().roll(5) == 0;
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

    /// The ids that it took, each lane's in order.
    pub(crate) fn taken(&self) -> HashMap<String, Vec<String>> {
        self.taken.lock().unwrap().clone()
    }
}

/// Publishes one event of a tenant's; its id where it was answered 202, the status where it was answered otherwise.
fn publish(port: u16, url: &str, target: &str) -> Result<String, Option<String>> {
    let (status, body) = answer(port, url, target).ok_or(None)?;
    if status != "202" {
        return Err(Some(status));
    }
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    Ok(body["messages"][0]["id"].as_str().unwrap().to_owned())
}

/// Status and body, if it was answered.
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

/// Those who publish, each to lanes of its own, and what they were answered 202 for, in order.
pub(crate) struct Publishers {
    stop: Arc<AtomicBool>,
    accepted: Arc<Mutex<HashMap<String, Vec<String>>>>,
    /// How else they were answered.
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
                        // It, or what it needs, is being started again.
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

    /// How they were answered where it wasn't 202.
    pub(crate) fn refused(&self) -> BTreeSet<String> {
        self.refused.lock().unwrap().clone()
    }

    /// Ends them; what was accepted, each lane's in order.
    pub(crate) fn stop(self) -> HashMap<String, Vec<String>> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        Arc::into_inner(self.accepted).unwrap().into_inner().unwrap()
    }
}

/// The first time each came.
pub(crate) fn deduped(ids: &[String]) -> Vec<&String> {
    let mut seen = HashSet::new();
    ids.iter().filter(|id| seen.insert(*id)).collect()
}

/// Which of what was accepted hasn't arrived.
pub(crate) fn missing(accepted: &HashMap<String, Vec<String>>, customer: &Flaky) -> Vec<String> {
    let taken = customer.taken();
    let of_lane = |(lane, ids): (&String, &Vec<String>)| -> Vec<String> {
        let taken: HashSet<&String> = taken.get(lane).into_iter().flatten().collect();
        ids.iter().filter(|id| !taken.contains(id)).cloned().collect()
    };
    accepted.iter().flat_map(of_lane).collect()
}

/// What came more than once.
pub(crate) fn count_twice(taken: &HashMap<String, Vec<String>>) -> usize {
    taken.values().map(|ids| ids.len() - deduped(ids).len()).sum()
}

/// That what was accepted came in order, of each lane, the first time.
pub(crate) fn assert_in_order(accepted: &HashMap<String, Vec<String>>, taken: &HashMap<String, Vec<String>>) {
    for (lane, ids) in accepted {
        let known: HashSet<&String> = ids.iter().collect();
        let came: Vec<&String> = deduped(&taken[lane]).into_iter().filter(|id| known.contains(id)).collect();
        assert!(came.iter().eq(&ids.iter().collect::<Vec<_>>()), "lane {lane} is out of order");
    }
}
