//! The answer of `status` as text.

use std::collections::BTreeMap;

use service::output::table;
use uuid::Uuid;

use super::{Answer, BOUND, Count, Horizon, OldestSeconds, SlotAnswer, VerifiedAnswer};
use crate::commands::events;

impl Count {
    fn text(self) -> String {
        let or_more = if self.exact { "" } else { " or more" };
        format!("{}{or_more}", events(self.events))
    }
}

impl OldestSeconds {
    /// How long the oldest event of each state has waited.
    fn text(self) -> String {
        let states = [
            ("pending", self.pending),
            ("dead", self.dead),
            ("blocked", self.blocked),
            ("unavailable", self.unavailable),
        ];
        let waits: Vec<String> = states
            .into_iter()
            .filter_map(|(state, seconds)| Some(format!("{state} {:.1} s", seconds?)))
            .collect();
        if waits.is_empty() {
            "no event waits".to_owned()
        } else {
            waits.join(", ")
        }
    }
}

impl Answer {
    pub(super) fn text(&self) -> String {
        let held = &self.held;
        let among = if held.exact {
            String::new()
        } else {
            format!(" among the {BOUND} oldest")
        };
        let horizon = match &self.horizon {
            None => "not held back".to_owned(),
            Some(Horizon { holder, seconds }) => {
                let since = seconds
                    .map(|s| format!(" for {s:.1} s"))
                    .unwrap_or_default();
                format!("held back{since} by {holder}")
            }
        };
        let mut text = format!(
            "pending    {}\npublished  {}\nheld       {} dead, {} blocked, {} unavailable, {} discarded{among}\noldest     {}\nhorizon    {horizon}\n\n{}",
            self.pending.text(),
            self.published.text(),
            held.dead,
            held.blocked,
            held.unavailable,
            held.discarded,
            self.oldest_seconds.text(),
            self.owners(),
        );
        if let Some(verified) = &self.verified {
            text.push('\n');
            text += &verified.text();
        }
        text
    }

    fn owners(&self) -> String {
        let mut owners: BTreeMap<(Option<Uuid>, bool), Vec<&SlotAnswer>> = BTreeMap::new();
        for slot in &self.slots {
            let owner = (slot.owner, slot.live);
            owners.entry(owner).or_default().push(slot);
        }
        let rows: Vec<[String; 4]> = owners
            .into_iter()
            .map(|((owner, live), slots)| {
                let numbers: Vec<i16> = slots.iter().map(|slot| slot.slot).collect();
                let pending: i64 = slots.iter().map(|slot| slot.pending).sum();
                let state = match (owner, live) {
                    (None, _) => "free",
                    (Some(_), true) => "live",
                    (Some(_), false) => "dead",
                };
                [
                    owner.map_or_else(|| "-".to_owned(), |owner| owner.to_string()),
                    state.to_owned(),
                    ranges(&numbers),
                    pending.to_string(),
                ]
            })
            .collect();
        table(["OWNER", "STATE", "SLOTS", "PENDING"], &rows)
    }
}

impl VerifiedAnswer {
    fn text(&self) -> String {
        let looked_at = events(self.events);
        if self.offenders.is_empty() {
            return format!(
                "verified   {looked_at}, each in exactly one of pending, published and held\n"
            );
        }
        let rows: Vec<[String; 3]> = self
            .offenders
            .iter()
            .map(|offender| {
                [
                    offender.id.to_string(),
                    offender
                        .event_id
                        .map_or_else(|| "-".to_owned(), |id| id.to_string()),
                    offender.state.clone(),
                ]
            })
            .collect();
        let more = if self.more { "and more\n" } else { "" };
        format!(
            "NOT verified: of {looked_at}, these are not in exactly one of pending, published and held\n{}{more}",
            table(["ID", "EVENT", "STATE"], &rows)
        )
    }
}

/// `0-3, 7` for 0, 1, 2, 3, 7.
fn ranges(numbers: &[i16]) -> String {
    let mut ranges: Vec<(i16, i16)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => ranges.push((*number, *number)),
        }
    }
    let texts: Vec<String> = ranges
        .into_iter()
        .map(|(first, last)| {
            if first == last {
                first.to_string()
            } else {
                format!("{first}-{last}")
            }
        })
        .collect();
    texts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_shown_as_ranges() {
        assert_eq!(ranges(&[]), "");
        assert_eq!(ranges(&[4]), "4");
        assert_eq!(ranges(&[0, 1, 2, 3, 7, 30, 31]), "0-3, 7, 30-31");
    }
}
