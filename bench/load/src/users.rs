//! Who asks: distinct users one after the other, mixed with a fixed set of abusers.

pub const ID_BYTES: usize = 36;
pub const NOT_AN_ABUSER: u32 = u32::MAX;

const FIRST_ABUSER: u64 = 1 << 62;
const HEX: &[u8; 16] = b"0123456789abcdef";

/// Chooses users. The same numbers give the same users, in the same order.
pub struct Users {
    first: u64,
    count: u64,
    next: u64,
    abusers: u32,
    abuser_share_per_mille: u32,
    state: u64,
}

impl Users {
    pub fn new(first: u64, count: u64, abusers: u32, abuser_share_per_mille: u32) -> Self {
        Users { first, count: count.max(1), next: 0, abusers, abuser_share_per_mille, state: first }
    }

    /// Writes the next user's id and returns which abuser it is, or `NOT_AN_ABUSER`.
    pub fn choose(&mut self, id: &mut [u8; ID_BYTES]) -> u32 {
        if self.abusers > 0 {
            self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let drawn = mix(self.state);
            if drawn % 1000 < u64::from(self.abuser_share_per_mille) {
                let abuser = (drawn >> 32) % u64::from(self.abusers);
                write_id(FIRST_ABUSER + self.first + abuser, id);
                return abuser as u32;
            }
        }
        write_id(self.first + self.next, id);
        self.next = (self.next + 1) % self.count;
        NOT_AN_ABUSER
    }
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014).
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// An id in the shape of a UUID.
fn write_id(number: u64, id: &mut [u8; ID_BYTES]) {
    let high = mix(number.wrapping_add(0x9e37_79b9_7f4a_7c15));
    let low = mix(number.wrapping_add(0x3c6e_f372_fe94_f82a));
    let mut at = 0;
    for word in [high, low] {
        for shift in (0..64).step_by(4).rev() {
            if matches!(at, 8 | 13 | 18 | 23) {
                id[at] = b'-';
                at += 1;
            }
            id[at] = HEX[(word >> shift) as usize & 15];
            at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn users_repeat_only_after_the_last_of_them() {
        let mut users = Users::new(7, 1000, 0, 0);
        let mut seen = HashSet::new();
        let mut id = [0; ID_BYTES];
        for _ in 0..1000 {
            assert_eq!(users.choose(&mut id), NOT_AN_ABUSER);
            assert!(seen.insert(id));
        }
        users.choose(&mut id);
        assert!(seen.contains(&id));
    }

    #[test]
    fn abusers_are_few_and_take_their_share() {
        let mut users = Users::new(0, 1_000_000, 100, 900);
        let mut id = [0; ID_BYTES];
        let abusers: Vec<u32> = (0..100_000).map(|_| users.choose(&mut id)).filter(|&one| one != NOT_AN_ABUSER).collect();
        assert!((89_000..91_000).contains(&abusers.len()));
        assert_eq!(abusers.iter().collect::<HashSet<_>>().len(), 100);
    }
}
