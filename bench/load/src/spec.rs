//! What to send and how to read the answers. The caller writes it as one JSON document to standard input.

use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// `host:port`, without TLS.
    pub address: String,
    /// `/package.Service/Method`.
    pub path: String,
    /// The request message, in hex, with 36 bytes of anything wherever a user's id goes.
    pub body_hex: String,
    /// For each decision in the message, the offsets of its user's id.
    pub holes: Vec<Vec<usize>>,
    pub answer: Answer,
    pub connections: usize,
    /// Most calls under way on one connection. In a closed loop so many always are.
    pub streams: usize,
    /// Calls per second over all connections; 0 is a closed loop.
    pub rate_per_s: f64,
    /// 0 lasts until `calls` are made.
    pub duration_s: f64,
    /// 0 makes calls until `duration_s` is over.
    pub calls: u64,
    pub first_user: u64,
    /// Distinct users, asked for one after the other, over and over.
    pub users: u64,
    pub abusers: u32,
    /// How many of a thousand decisions are asked for by one of the abusers.
    pub abuser_share_per_mille: u32,
    /// Length of the windows that rates and latencies are reported for.
    pub window_s: f64,
}

/// Numbers of the fields in the answer. 0 where there is no such field.
#[derive(Deserialize, Clone)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// Repeated message that holds one decision each; 0: the answer is itself the decision.
    pub item_field: u64,
    /// Varint with the outcome; absent reads as 0.
    pub code_field: u64,
    pub ok_codes: Vec<u64>,
    pub over_codes: Vec<u64>,
    /// A message that says why there is no decision.
    pub error_field: u64,
    pub degraded_field: u64,
    pub cached_field: u64,
}
