//! The assignment of partitions to instances, which all of them compute alike from the same claims.

use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Returns the partitions of one instance; `claims` are those of all instances, by id.
///
/// An instance keeps what it claims, as far as its share goes. Those with the most keep one more, if the number of
/// partitions is not a multiple of that of the instances.
pub(super) fn assigned(own: &str, partitions: u32, claims: &BTreeMap<&str, &[u32]>) -> Vec<u32> {
    // A partition that several instances claim belongs to the one that lists it earliest, so that an instance which claims
    // everything, because it received no announcements, takes few from the others.
    let places = claims.iter().flat_map(|(id, claims)| (0..).zip(*claims).map(|(place, claim)| (place, *id, *claim)));
    let mut places: Vec<(usize, &str, u32)> = places.collect();
    places.sort_unstable();
    let mut owners = BTreeMap::new();
    for (_, id, claim) in places {
        owners.entry(claim).or_insert(id);
    }
    let mut kept: Vec<(&str, Vec<u32>)> = claims
        .iter()
        .map(|(id, of_instance)| (*id, of_instance.iter().copied().filter(|it| owners.get(it) == Some(id)).collect()))
        .collect();
    kept.sort_by_key(|(id, kept)| (Reverse(kept.len()), *id));
    let (share, more) = (partitions as usize / kept.len().max(1), partitions as usize % kept.len().max(1));
    let mut free: Vec<u32> = (0..partitions).filter(|it| !owners.contains_key(it)).collect();
    for (rank, (_, kept)) in kept.iter_mut().enumerate() {
        free.extend(kept.drain(target(rank, share, more).min(kept.len())..));
    }
    free.sort_unstable();
    let mut free = free.into_iter();
    for (rank, (id, mut kept)) in kept.into_iter().enumerate() {
        kept.extend(free.by_ref().take(target(rank, share, more) - kept.len()));
        if id == own {
            return kept;
        }
    }
    Vec::new()
}

fn target(rank: usize, share: usize, more: usize) -> usize {
    share + usize::from(rank < more)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Claims = BTreeMap<String, Vec<u32>>;

    fn next(partitions: u32, claims: &Claims, own: &str) -> Vec<u32> {
        let claims = claims.iter().map(|(id, claims)| (id.as_str(), claims.as_slice())).collect();
        assigned(own, partitions, &claims)
    }

    /// Lets all instances compute their shares until nothing changes, each from the latest claims of the others.
    fn settle(partitions: u32, claims: &mut Claims) -> usize {
        for round in 0.. {
            let before = claims.clone();
            for id in before.keys() {
                let next = next(partitions, claims, id);
                claims.insert(id.clone(), next);
            }
            if *claims == before {
                return round;
            }
        }
        unreachable!("it settles")
    }

    fn check(partitions: u32, claims: &Claims) {
        let mut all: Vec<u32> = claims.values().flatten().copied().collect();
        all.sort_unstable();
        assert_eq!(all, (0..partitions).collect::<Vec<_>>(), "{claims:?}");
        let sizes: Vec<usize> = claims.values().map(Vec::len).collect();
        let (least, most) = (sizes.iter().min().unwrap(), sizes.iter().max().unwrap());
        assert!(most - least <= 1, "{claims:?}");
    }

    #[test]
    fn first_instance_has_all_and_gives_half_to_the_second() {
        let mut claims = Claims::from([("b".to_owned(), Vec::new())]);
        settle(5, &mut claims);
        assert_eq!(claims["b"], [0, 1, 2, 3, 4]);
        claims.insert("a".to_owned(), Vec::new());
        settle(5, &mut claims);
        assert_eq!((&*claims["b"], &*claims["a"]), (&[0, 1, 2][..], &[3, 4][..]));
        claims.remove("b");
        settle(5, &mut claims);
        assert_eq!(claims["a"], [3, 4, 0, 1, 2]);
    }

    #[test]
    fn instance_gives_up_what_it_claims_last() {
        let mut claims = Claims::from([("a".to_owned(), vec![3, 1, 0, 2]), ("b".to_owned(), vec![])]);
        settle(4, &mut claims);
        assert_eq!((&*claims["a"], &*claims["b"]), (&[3, 1][..], &[0, 2][..]));
    }

    #[test]
    fn instances_beyond_the_partitions_have_none() {
        let mut claims: Claims = (0..7).map(|id| (id.to_string(), Vec::new())).collect();
        settle(3, &mut claims);
        check(3, &claims);
    }

    #[test]
    fn shares_are_even_whatever_was_claimed_before() {
        let mut random = fastrand::Rng::with_seed(2026);
        for _ in 0..500 {
            let partitions = random.u32(1..40);
            let mut claims: Claims = (0..random.usize(1..9))
                .map(|_| {
                    let claims = (0..partitions).filter(|_| random.bool()).collect();
                    (random.u64(..).to_string(), claims)
                })
                .collect();
            assert!(settle(partitions, &mut claims) <= 4);
            check(partitions, &claims);
            let before = claims.clone();
            claims.insert("new".to_owned(), Vec::new());
            settle(partitions, &mut claims);
            check(partitions, &claims);
            let moved = before.iter().flat_map(|(id, before)| before.iter().filter(|it| !claims[id].contains(it)));
            assert_eq!(moved.count(), claims["new"].len(), "only what the new one gets moves");
        }
    }
}
