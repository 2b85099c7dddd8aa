//! Which server of a service is next. No I/O, no clock and no shared state.

use std::cell::{Cell, RefCell};

/// The turn of one core among the servers of one service.
#[derive(Debug, Default)]
pub struct Balancer {
    /// Of each server, for [`Balancer::by_weight`].
    shares: RefCell<Vec<Credit>>,
    /// Picks that are to be skipped at first.
    skip: Cell<usize>,
    /// Position at which [`Balancer::by_load`] begins.
    next: Cell<usize>,
}

/// A server's part in the picks.
#[derive(Debug, Default)]
struct Credit {
    /// Its weight in the pick that is made.
    weight: i64,
    /// Its credit. The sum is 0 until servers come or go.
    owed: i64,
}

impl Balancer {
    /// Starts `offset` picks later, so that the cores of a node do not begin with the same server.
    #[must_use]
    pub fn starting_at(offset: usize) -> Self {
        Self {
            shares: RefCell::default(),
            skip: Cell::new(offset),
            next: Cell::new(offset),
        }
    }

    /// Smooth weighted round robin (as nginx has it): among servers of constant weight, each gets
    /// its exact share of as many picks as the weights sum up to, and they are spread as evenly as
    /// can be. A server of weight 0 is left out; `None`: all are.
    pub fn by_weight(&self, count: usize, weight: impl Fn(usize) -> u64) -> Option<usize> {
        let mut shares = self.shares.borrow_mut();
        shares.resize_with(count, Credit::default);
        for (index, share) in shares.iter_mut().enumerate() {
            share.weight = weight(index) as i64;
        }
        for _ in 0..self.skip.take() {
            pick(&mut shares);
        }
        pick(&mut shares)
    }

    /// The server with the least load for its weight: `load` gives both, the load with the new
    /// tunnel counted. Equals go in turn. A server of weight 0 is left out; `None`: all are.
    pub fn by_load(&self, count: usize, load: impl Fn(usize) -> (u64, u64)) -> Option<usize> {
        let first = self.next.get().checked_rem(count)?;
        let mut best: Option<(usize, u64, u64)> = None;
        for index in (first..count).chain(0..first) {
            let (tunnels, weight) = load(index);
            let is_less = |best: (usize, u64, u64)| {
                u128::from(tunnels) * u128::from(best.2) < u128::from(best.1) * u128::from(weight)
            };
            if weight > 0 && best.is_none_or(is_less) {
                best = Some((index, tunnels, weight));
            }
        }
        let (index, ..) = best?;
        self.next.set(index + 1);
        Some(index)
    }
}

fn pick(shares: &mut [Credit]) -> Option<usize> {
    let total: i64 = shares.iter().map(|share| share.weight).sum();
    let mut best: Option<(usize, i64)> = None;
    for (index, Credit { weight, owed }) in shares.iter_mut().enumerate() {
        if *weight == 0 {
            continue;
        }
        // What is owed stays within a period's picks, but where servers have gone or come: nobody waits for a debt to those.
        *owed = (*owed).clamp(-total, total) + *weight;
        if best.is_none_or(|(_, most)| *owed > most) {
            best = Some((index, *owed));
        }
    }
    let (index, _) = best?;
    shares[index].owed -= total;
    Some(index)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn equal_servers_go_in_turn_and_cores_begin_apart() {
        let picks = |offset| -> Vec<usize> {
            let turn = Balancer::starting_at(offset);
            (0..4).map(|_| turn.by_weight(3, |_| 1).unwrap()).collect()
        };
        assert_eq!(picks(0), [0, 1, 2, 0]);
        assert_eq!(picks(4), [1, 2, 0, 1]);
        assert_eq!(Balancer::default().by_weight(0, |_| 1), None);
        assert_eq!(Balancer::default().by_weight(2, |_| 0), None);
        assert_eq!(Balancer::default().by_load(0, |_| (0, 1)), None);
        assert_eq!(Balancer::default().by_load(2, |_| (0, 0)), None);
    }

    #[test]
    fn a_heavy_server_is_not_picked_in_one_run() {
        let turn = Balancer::default();
        let picks: Vec<usize> = (0..7)
            .map(|_| turn.by_weight(3, |index| [5, 1, 1][index]).unwrap())
            .collect();
        assert_eq!(picks, [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn a_light_server_does_not_wait_for_what_it_owed_to_one_that_has_gone() {
        let turn = Balancer::default();
        for _ in 0..21 {
            turn.by_weight(3, |index| [2, 9, 1][index]);
        }
        let picks: Vec<usize> = (0..6)
            .map(|_| turn.by_weight(3, |index| [2, 0, 1][index]).unwrap())
            .collect();
        assert!(picks.contains(&0) && picks.contains(&2), "{picks:?}");
    }

    proptest! {
        #[test]
        fn each_period_has_the_exact_shares(
            weights in vec(0u64..20, 1..8), offset in 0usize..50, periods in 1usize..4,
        ) {
            let total: u64 = weights.iter().sum();
            let turn = Balancer::starting_at(offset);
            for _ in 0..periods {
                let mut got = vec![0u64; weights.len()];
                for _ in 0..total {
                    got[turn.by_weight(weights.len(), |index| weights[index]).unwrap()] += 1;
                }
                prop_assert_eq!(&got, &weights);
            }
        }

        #[test]
        fn no_share_strays_by_more_than_one_for_each_server(
            weights in vec(1u64..20, 1..8), picks in 1u64..200,
        ) {
            let total: u64 = weights.iter().sum();
            let turn = Balancer::default();
            let mut got = vec![0u64; weights.len()];
            for done in 1..=picks {
                got[turn.by_weight(weights.len(), |index| weights[index]).unwrap()] += 1;
                for (got, weight) in got.iter().zip(&weights) {
                    let fair = (done * weight) as f64 / total as f64;
                    prop_assert!((*got as f64 - fair).abs() <= weights.len() as f64);
                }
            }
        }

        /// Servers die and come back; the shares of those that stay are right again in the period
        /// behind.
        #[test]
        fn what_comes_and_goes_starves_nobody(
            weights in vec(1u64..10, 2..6), gone in 0usize..6, before in 0usize..40,
        ) {
            let gone = gone % weights.len();
            let turn = Balancer::default();
            let count = weights.len();
            for _ in 0..before {
                turn.by_weight(count, |index| weights[index]);
            }
            let rest: u64 = weights.iter().sum::<u64>() - weights[gone];
            let mut got = vec![0u64; count];
            for _ in 0..2 * rest {
                let without = |index| if index == gone { 0 } else { weights[index] };
                got[turn.by_weight(count, without).unwrap()] += 1;
            }
            prop_assert_eq!(got[gone], 0);
            for (index, got) in got.iter().enumerate().filter(|(index, _)| *index != gone) {
                prop_assert!(*got > 0, "server {} of {:?} starves", index, weights);
            }
        }

        /// Opens and closes at random: a pick is always one of the least loaded for its weight.
        #[test]
        fn the_least_loaded_is_picked(
            weights in vec(0u64..5, 1..6), steps in vec((any::<bool>(), 0usize..6), 1..200),
        ) {
            let turn = Balancer::default();
            let mut open = vec![0u64; weights.len()];
            for (opens, which) in steps {
                if !opens {
                    let which = which % open.len();
                    open[which] = open[which].saturating_sub(1);
                    continue;
                }
                let load = |index: usize| (open[index] + 1, weights[index]);
                let Some(picked) = turn.by_load(open.len(), load) else {
                    prop_assert!(weights.iter().all(|weight| *weight == 0));
                    break;
                };
                let ratio = |index: usize| load(index).0 as f64 / weights[index] as f64;
                for index in (0..open.len()).filter(|index| weights[*index] > 0) {
                    prop_assert!(ratio(picked) <= ratio(index) + 1e-9);
                }
                prop_assert!(weights[picked] > 0);
                open[picked] += 1;
            }
        }
    }
}
