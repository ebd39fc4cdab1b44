//! What to claim and what to release: a pure function of the contents of the tables.
//!
//! All members compute the same assignment from the same contents, so they do not race for the same
//! units, and what they saw differently is sorted out by the epochs.

use std::time::Duration;

use super::MemberId;

/// A live member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    pub id: MemberId,
    /// Time left before it is presumed dead.
    pub expires_in: Duration,
}

/// A unit's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unit {
    pub number: i32,
    pub epoch: i64,
    /// Its owner, whether alive or not.
    pub owner: Option<MemberId>,
}

/// What the two tables said of one scope.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// Live members only.
    pub members: Vec<Member>,
    pub units: Vec<Unit>,
}

/// What one member should do now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decision {
    /// Free units to claim, each with the epoch it was seen at.
    pub take: Vec<(i32, i64)>,
    /// Units of its own to hand over once what is in flight is finished.
    pub give_up: Vec<i32>,
}

/// The number of units a member should own: shares differ by one at most, and the members that
/// joined first have the larger ones.
const fn share(rank: usize, units: usize, members: usize) -> usize {
    units / members + if rank < units % members { 1 } else { 0 }
}

/// Says what `me` should do. A member that is not alive by the snapshot should do nothing.
pub fn decide(snapshot: &Snapshot, me: MemberId) -> Decision {
    let mut members: Vec<MemberId> = snapshot.members.iter().map(|m| m.id).collect();
    members.sort_unstable();
    members.dedup();
    if !members.contains(&me) {
        return Decision::default();
    }
    let mut units = snapshot.units.clone();
    units.sort_unstable_by_key(|unit| unit.number);
    let is_free = |unit: &Unit| unit.owner.is_none_or(|owner| !members.contains(&owner));

    let mut free = units.iter().filter(|unit| is_free(unit));
    let mut decision = Decision::default();
    for (rank, member) in members.iter().enumerate() {
        let owned: Vec<i32> = units
            .iter()
            .filter(|unit| unit.owner == Some(*member))
            .map(|unit| unit.number)
            .collect();
        let share = share(rank, units.len(), members.len());
        let take: Vec<(i32, i64)> = free
            .by_ref()
            .take(share.saturating_sub(owned.len()))
            .map(|unit| (unit.number, unit.epoch))
            .collect();
        if *member == me {
            decision.take = take;
            decision.give_up = owned.into_iter().skip(share).collect();
        }
    }
    decision
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use uuid::Uuid;

    fn member(number: u128) -> MemberId {
        MemberId::from(Uuid::from_u128(number))
    }

    /// All members decide on what they see and act at once; nobody leaves or joins meanwhile.
    fn round(snapshot: &mut Snapshot) -> usize {
        let before = snapshot.clone();
        let mut changes = 0;
        for Member { id, .. } in &before.members {
            let decision = decide(&before, *id);
            for (number, epoch) in decision.take {
                let unit = unit_mut(snapshot, number);
                assert_eq!(unit.epoch, epoch, "two members took unit {number} at once");
                *unit = Unit {
                    number,
                    epoch: epoch + 1,
                    owner: Some(*id),
                };
                changes += 1;
            }
            for number in decision.give_up {
                unit_mut(snapshot, number).owner = None;
                changes += 1;
            }
        }
        changes
    }

    fn unit_mut(snapshot: &mut Snapshot, number: i32) -> &mut Unit {
        snapshot
            .units
            .iter_mut()
            .find(|unit| unit.number == number)
            .unwrap()
    }

    fn surveys() -> impl Strategy<Value = Snapshot> {
        (1..40_usize, 1..40_usize).prop_flat_map(|(members, units)| {
            // Owners 1..=members live, those above are dead, 0 stands for none.
            prop::collection::vec(0..members as u128 + 4, units).prop_map(move |owners| Snapshot {
                members: (1..=members as u128)
                    .map(|number| Member {
                        id: member(number),
                        expires_in: Duration::from_secs(5),
                    })
                    .collect(),
                units: (0..)
                    .zip(owners)
                    .map(|(number, owner)| Unit {
                        number,
                        epoch: 7,
                        owner: (owner > 0).then(|| member(owner)),
                    })
                    .collect(),
            })
        })
    }

    proptest! {
        #[test]
        fn any_start_ends_in_fair_shares_after_two_rounds(mut snapshot in surveys()) {
            round(&mut snapshot);
            round(&mut snapshot);
            let shares: Vec<usize> = snapshot.members.iter()
                .map(|m| snapshot.units.iter().filter(|u| u.owner == Some(m.id)).count())
                .collect();
            prop_assert_eq!(shares.iter().sum::<usize>(), snapshot.units.len());
            let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
            prop_assert!(most - least <= 1, "{:?}", shares);
            prop_assert_eq!(round(&mut snapshot), 0, "churn among stable members");
        }

        #[test]
        fn nobody_takes_what_a_live_member_owns(snapshot in surveys()) {
            let live: Vec<MemberId> = snapshot.members.iter().map(|m| m.id).collect();
            for id in &live {
                let decision = decide(&snapshot, *id);
                for (number, _) in decision.take {
                    let owner = snapshot.units[usize::try_from(number).unwrap()].owner;
                    prop_assert!(owner.is_none_or(|owner| !live.contains(&owner)));
                }
                for number in decision.give_up {
                    prop_assert_eq!(snapshot.units[usize::try_from(number).unwrap()].owner, Some(*id));
                }
            }
        }
    }

    #[test]
    fn a_lone_member_takes_every_free_unit() {
        let snapshot = Snapshot {
            members: vec![Member {
                id: member(1),
                expires_in: Duration::from_secs(5),
            }],
            units: (0..32)
                .map(|number| Unit {
                    number,
                    epoch: 0,
                    owner: None,
                })
                .collect(),
        };
        assert_eq!(decide(&snapshot, member(1)).take.len(), 32);
        assert_eq!(decide(&snapshot, member(2)), Decision::default());
    }
}
