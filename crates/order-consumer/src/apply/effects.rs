//! Applies events by their handlers: at once, or narrowing down which of them cannot be applied.
//!
//! Runs inside the caller's transaction and never ends it.

use std::collections::HashSet;

use domain::Received;

use crate::apply::error::EffectError;
use crate::handlers::Event;
use crate::ports::Transaction;

/// An event with the key of its record.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) received: Received<Event>,
}

/// What narrowing found, by the candidates' places.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Narrowed {
    pub(crate) applied: Vec<usize>,
    /// Those that cannot be applied, and why.
    pub(crate) guilty: Vec<(usize, String)>,
    /// Those of the same keys that came later; not applied.
    pub(crate) blocked: Vec<usize>,
}

/// Applies what can be applied: halves are tried under savepoints, the earlier one first, down
/// to the single events that fail. What follows one of those with its key is left out, so keys
/// keep their order. One bad event among n costs about 2 log n attempts.
///
/// # Errors
/// When Postgres is in trouble: no event is to blame then, and the transaction is to be rolled
/// back.
pub(crate) async fn apply_narrowing(
    transaction: &mut dyn Transaction,
    candidates: &[Candidate],
) -> Result<Narrowed, EffectError> {
    let english = transaction.messages_are_english().await?;
    let mut narrowed = Narrowed::default();
    let mut held: HashSet<&[u8]> = HashSet::new();
    // Taken from the end, so the earlier half is pushed last.
    let mut open: Vec<Vec<usize>> = vec![(0..candidates.len()).collect()];
    while let Some(mut part) = open.pop() {
        part.retain(|&place| {
            let key = candidates[place].key.as_deref();
            let waits = key.is_some_and(|key| held.contains(key));
            if waits {
                narrowed.blocked.push(place);
            }
            !waits
        });
        let events: Vec<_> = part
            .iter()
            .map(|&place| candidates[place].received.clone())
            .collect();
        match transaction.try_apply(&events).await {
            Ok(()) => narrowed.applied.extend(part),
            Err(error) if !error.blames_an_event(english) => return Err(error),
            Err(error) => {
                if let [place] = part[..] {
                    held.extend(candidates[place].key.as_deref());
                    narrowed.guilty.push((place, error.to_string()));
                } else {
                    let later = part.split_off(part.len() / 2);
                    open.extend([later, part]);
                }
            }
        }
    }
    Ok(narrowed)
}
