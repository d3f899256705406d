//! Load for gRPC unary calls: reads a spec (see `spec.rs`) from standard input, prints a report (see `tally.rs`).
//!
//! One thread, so that its share of a core is known. In a closed loop `connections` x `streams` calls are always under
//! way; that gives the capacity. In an open loop calls are due at a fixed rate whatever the server does, and latency
//! counts from when a call was due, not from when it could be sent, so a stalled server cannot hide its stall
//! (Tene: How not to measure latency).

mod answer;
mod http2;
mod spec;
mod tally;
mod users;

use std::io::{self, Read};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::event::{poll, PollFd, PollFlags, Timespec};

use http2::Connection;
use spec::Spec;
use tally::{Report, Tally};
use users::{Users, ID_BYTES};

const CONNECT_WITHIN: Duration = Duration::from_secs(5);
const DRAIN_WITHIN: Duration = Duration::from_secs(5);
const LONGEST_POLL: Duration = Duration::from_millis(50);

fn main() -> ExitCode {
    match read_spec().and_then(run) {
        Ok(report) => {
            println!("{}", serde_json::to_string(&report).expect("a report is JSON"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::FAILURE
        }
    }
}

fn read_spec() -> io::Result<Spec> {
    let mut text = String::new();
    io::stdin().read_to_string(&mut text)?;
    serde_json::from_str(&text).map_err(io::Error::other)
}

fn run(spec: Spec) -> io::Result<Report> {
    let mut load = Load::connect(spec)?;
    let started = Instant::now();
    load.tally = Tally::new(load.spec.answer.clone(), load.spec.abusers, load.spec.window_s, started);
    let end = (load.spec.duration_s > 0.0).then(|| started + Duration::from_secs_f64(load.spec.duration_s));
    if load.spec.rate_per_s > 0.0 {
        load.run_open(started, end)?;
    } else {
        load.run_closed(end)?;
    }
    let deadline = Instant::now() + DRAIN_WITHIN;
    while load.under_way() > 0 && Instant::now() < deadline {
        load.exchange(LONGEST_POLL)?;
    }
    let unanswered = load.under_way();
    Ok(load.tally.finish(unanswered))
}

struct Load {
    spec: Spec,
    connections: Vec<Connection>,
    next_connection: usize,
    users: Users,
    message: Vec<u8>,
    tally: Tally,
    made: u64,
}

impl Load {
    fn connect(mut spec: Spec) -> io::Result<Self> {
        let message = decode_hex(&spec.body_hex).ok_or_else(|| io::Error::other("body_hex is not hex"))?;
        if spec.holes.iter().flatten().any(|&at| at + ID_BYTES > message.len()) {
            return Err(io::Error::other("a hole lies outside of the body"));
        }
        let connections =
            (0..spec.connections).map(|_| Connection::open(&spec.address, &spec.path)).collect::<io::Result<Vec<_>>>()?;
        let users = Users::new(spec.first_user, spec.users, spec.abusers, spec.abuser_share_per_mille);
        let tally = Tally::new(spec.answer.clone(), spec.abusers, spec.window_s, Instant::now());
        spec.body_hex.clear();
        let mut load = Load { spec, connections, next_connection: 0, users, message, tally, made: 0 };
        let deadline = Instant::now() + CONNECT_WITHIN;
        while !load.connections.iter().all(Connection::is_ready) {
            if Instant::now() > deadline {
                return Err(io::Error::other("the server does not speak HTTP/2 there"));
            }
            load.exchange(LONGEST_POLL)?;
        }
        for connection in &load.connections {
            if connection.peer_streams < load.spec.streams {
                return Err(io::Error::other(format!("the server allows {} streams on a connection", connection.peer_streams)));
            }
        }
        Ok(load)
    }

    fn under_way(&self) -> usize {
        self.connections.iter().map(Connection::under_way).sum()
    }

    fn is_over(&self, end: Option<Instant>) -> bool {
        (self.spec.calls > 0 && self.made >= self.spec.calls) || end.is_some_and(|end| Instant::now() >= end)
    }

    fn run_closed(&mut self, end: Option<Instant>) -> io::Result<()> {
        while !self.is_over(end) {
            let now = Instant::now();
            for at in 0..self.connections.len() {
                while self.has_room(at) && !(self.spec.calls > 0 && self.made >= self.spec.calls) {
                    self.make_call(at, now)?;
                }
            }
            self.exchange(LONGEST_POLL)?;
        }
        Ok(())
    }

    fn run_open(&mut self, started: Instant, end: Option<Instant>) -> io::Result<()> {
        let gap_ns = 1e9 / self.spec.rate_per_s;
        let mut due = started;
        while !self.is_over(end) {
            let now = Instant::now();
            while due <= now {
                let Some(at) = self.find_room() else { break };
                self.make_call(at, due)?;
                due = started + Duration::from_nanos((self.made as f64 * gap_ns) as u64);
            }
            self.exchange(due.saturating_duration_since(Instant::now()).min(LONGEST_POLL))?;
        }
        Ok(())
    }

    fn has_room(&self, at: usize) -> bool {
        let connection = &self.connections[at];
        connection.under_way() < self.spec.streams && connection.has_window(self.message.len())
    }

    fn find_room(&mut self) -> Option<usize> {
        let count = self.connections.len();
        let found = (0..count).map(|step| (self.next_connection + step) % count).find(|&at| self.has_room(at))?;
        self.next_connection = (found + 1) % count;
        Some(found)
    }

    fn make_call(&mut self, at: usize, since: Instant) -> io::Result<()> {
        let mut id = [0u8; ID_BYTES];
        let mut abusers = Vec::with_capacity(if self.spec.abusers > 0 { self.spec.holes.len() } else { 0 });
        for holes in &self.spec.holes {
            let abuser = self.users.choose(&mut id);
            for &hole in holes {
                self.message[hole..hole + ID_BYTES].copy_from_slice(&id);
            }
            if self.spec.abusers > 0 {
                abusers.push(abuser);
            }
        }
        self.made += 1;
        self.connections[at].call(&self.message, since, abusers)
    }

    /// Sends what is queued, waits for something to come, and takes it.
    fn exchange(&mut self, wait: Duration) -> io::Result<()> {
        for connection in &mut self.connections {
            connection.flush()?;
        }
        let ready: Vec<bool> = {
            let mut asked: Vec<PollFd> = self
                .connections
                .iter()
                .map(|one| {
                    let wanted = if one.has_output() { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
                    PollFd::new(&one.socket, wanted)
                })
                .collect();
            let timeout = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: i64::from(wait.subsec_nanos()) };
            match poll(&mut asked, Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let readable = PollFlags::IN | PollFlags::HUP | PollFlags::ERR;
            asked.iter().map(|one| one.revents().intersects(readable)).collect()
        };
        let tally = &mut self.tally;
        for (connection, _) in self.connections.iter_mut().zip(ready).filter(|(_, is_ready)| *is_ready) {
            let now = Instant::now();
            connection.receive(|done| tally.take(&done, now))?;
        }
        Ok(())
    }
}

fn decode_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if digits.len() % 2 != 0 {
        return None;
    }
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}
