//! What is counted, and the report that it ends in.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::answer;
use crate::http2::Done;
use crate::spec::Answer;
use crate::users::NOT_AN_ABUSER;

const LARGEST_NS: u64 = 60_000_000_000;
const DIGITS: u8 = 3;
/// gRPC's UNKNOWN stands in for an answer that is no message of the expected type.
const UNREADABLE: u32 = 2;

#[derive(Serialize)]
pub struct Latency {
    pub p50_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub max_us: f64,
}

#[derive(Serialize)]
pub struct Window {
    pub end_s: f64,
    pub calls: u64,
    pub latency: Latency,
}

#[derive(Serialize)]
pub struct Report {
    pub elapsed_s: f64,
    pub calls: u64,
    pub decisions: u64,
    pub ok: u64,
    pub over_limit: u64,
    /// Decisions with a code that is neither, or with an error.
    pub other: u64,
    pub degraded: u64,
    pub cached: u64,
    /// Calls by gRPC status, those with status 0 left out.
    pub errors: BTreeMap<u32, u64>,
    /// Calls that had no answer when the wait for the last ones ended.
    pub unanswered: u64,
    pub latency: Latency,
    pub windows: Vec<Window>,
    /// For each abuser, how many decisions were OK.
    pub abuser_ok: Vec<u64>,
    pub abuser_asked: u64,
}

pub struct Tally {
    started: Instant,
    window: Duration,
    window_end: Instant,
    answer: Answer,
    whole: Histogram<u64>,
    part: Histogram<u64>,
    report: Report,
}

impl Tally {
    pub fn new(answer: Answer, abusers: u32, window_s: f64, started: Instant) -> Self {
        let histogram = || Histogram::new_with_bounds(1_000, LARGEST_NS, DIGITS).expect("the bounds are in order");
        let window = Duration::from_secs_f64(window_s);
        let whole = histogram();
        let report = Report {
            elapsed_s: 0.0,
            calls: 0,
            decisions: 0,
            ok: 0,
            over_limit: 0,
            other: 0,
            degraded: 0,
            cached: 0,
            errors: BTreeMap::new(),
            unanswered: 0,
            latency: summarize(&whole),
            windows: Vec::new(),
            abuser_ok: vec![0; abusers as usize],
            abuser_asked: 0,
        };
        Tally { started, window, window_end: started + window, answer, whole, part: histogram(), report }
    }

    pub fn take(&mut self, done: &Done, now: Instant) {
        while now >= self.window_end {
            self.end_window();
        }
        let latency_ns = (now - done.call.since).as_nanos() as u64;
        self.whole.saturating_record(latency_ns);
        self.part.saturating_record(latency_ns);
        let report = &mut self.report;
        report.calls += 1;
        if done.status != 0 {
            *report.errors.entry(done.status).or_default() += 1;
            return;
        }
        let mut position = 0;
        let answer = &self.answer;
        let read = answer::read(done.message, answer, |decision| {
            let abuser = done.call.abusers.get(position).copied().unwrap_or(NOT_AN_ABUSER);
            position += 1;
            report.decisions += 1;
            report.degraded += u64::from(decision.degraded);
            report.cached += u64::from(decision.cached);
            let is_ok = !decision.failed && answer.ok_codes.contains(&decision.code);
            if is_ok {
                report.ok += 1;
            } else if !decision.failed && answer.over_codes.contains(&decision.code) {
                report.over_limit += 1;
            } else {
                report.other += 1;
            }
            if abuser != NOT_AN_ABUSER {
                report.abuser_asked += 1;
                report.abuser_ok[abuser as usize] += u64::from(is_ok);
            }
        });
        if read.is_none() {
            *report.errors.entry(UNREADABLE).or_default() += 1;
        }
    }

    fn end_window(&mut self) {
        self.report.windows.push(Window {
            end_s: (self.window_end - self.started).as_secs_f64(),
            calls: self.part.len(),
            latency: summarize(&self.part),
        });
        self.part.reset();
        self.window_end += self.window;
    }

    pub fn finish(mut self, unanswered: usize) -> Report {
        self.report.elapsed_s = self.started.elapsed().as_secs_f64();
        self.report.latency = summarize(&self.whole);
        self.report.unanswered = unanswered as u64;
        self.report
    }
}

fn summarize(histogram: &Histogram<u64>) -> Latency {
    let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
    Latency { p50_us: at(0.5), p99_us: at(0.99), p999_us: at(0.999), max_us: histogram.max() as f64 / 1e3 }
}
