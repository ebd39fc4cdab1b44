//! `inbox_offset`, and what handlers do. [`batch`] is the transaction of a batch.

mod batch;

use std::collections::HashMap;

use domain::EventId;
use storage::inbox::{Progress, Stream};
use uuid::Uuid;

use super::Connection;
use super::error::DatabaseError;
use super::locks::Mode;
use super::rows::OffsetKey;
use super::transaction::{Failure, Statement};

impl Connection<'_> {
    /// As `storage::inbox::progress`.
    ///
    /// # Errors
    /// [`DatabaseError::Aborted`].
    pub fn progress(&mut self, stream: &Stream) -> Result<Option<Progress>, DatabaseError> {
        let key = offset_key(stream);
        self.run(|statement| {
            Ok(statement
                .tables
                .offsets
                .get(statement.view(), &key)
                .copied())
        })
    }

    /// As `storage::inbox::next_offsets`.
    ///
    /// # Errors
    /// [`DatabaseError::Aborted`].
    pub fn next_offsets(
        &mut self,
        group: &str,
        topic: &str,
    ) -> Result<HashMap<i32, i64>, DatabaseError> {
        self.run(|statement| {
            let rows = statement.tables.offsets.scan(statement.view(), ..);
            let of_topic = rows.filter(|((of, name, _), _)| of == group && name == topic);
            Ok(of_topic
                .map(|((_, _, partition), row)| (*partition, row.next_offset))
                .collect())
        })
    }

    /// As `storage::inbox::begin_at`.
    ///
    /// # Errors
    /// Any [`DatabaseError`].
    pub fn begin_at(
        &mut self,
        stream: &Stream,
        next_offset: i64,
        topic_id: Option<Uuid>,
    ) -> Result<(), DatabaseError> {
        self.run(|statement| {
            let row = at(next_offset, topic_id);
            let offsets = &mut statement.tables.offsets;
            offsets.insert(&mut statement.writer, offset_key(stream), row)?;
            Ok(())
        })
    }

    /// As `storage::inbox::identify`.
    ///
    /// # Errors
    /// Any [`DatabaseError`].
    pub fn identify(
        &mut self,
        stream: &Stream,
        next_offset: i64,
        topic_id: Uuid,
    ) -> Result<(), DatabaseError> {
        let unknown = |row: &Progress| row.next_offset == next_offset && row.topic_id.is_none();
        let known = |row| Progress {
            topic_id: Some(topic_id),
            ..row
        };
        self.run(|statement| statement.update_offset(stream, unknown, known))
    }

    /// As `storage::inbox::reset`.
    ///
    /// # Errors
    /// Any [`DatabaseError`].
    pub fn reset(
        &mut self,
        stream: &Stream,
        next_offset: i64,
        topic_id: Option<Uuid>,
    ) -> Result<(), DatabaseError> {
        self.run(|statement| {
            let (key, row) = (offset_key(stream), at(next_offset, topic_id));
            let offsets = &mut statement.tables.offsets;
            offsets.upsert(&mut statement.writer, &key, &row, |_| Some(row))?;
            Ok(())
        })
    }

    /// What a handler does with an event: it adds it to what `target` has had. Locks the target's row
    /// until the transaction ends, as `insert … on conflict do update` does.
    ///
    /// # Errors
    /// Any [`DatabaseError`].
    pub fn apply_effect(&mut self, target: &str, event: EventId) -> Result<(), DatabaseError> {
        self.run(|statement| {
            let (key, effects) = (target.to_owned(), &mut statement.tables.effects);
            let more = |had: Vec<EventId>| Some([had, vec![event]].concat());
            effects.upsert(&mut statement.writer, &key, &vec![event], more)?;
            Ok(())
        })
    }
}

fn offset_key(stream: &Stream) -> OffsetKey {
    (stream.group.clone(), stream.topic.clone(), stream.partition)
}

fn at(next_offset: i64, topic_id: Option<Uuid>) -> Progress {
    Progress {
        next_offset,
        last_event_id: None,
        topic_id,
    }
}

impl Statement<'_> {
    fn update_offset(
        &mut self,
        stream: &Stream,
        wanted: impl Fn(&Progress) -> bool,
        changed: impl FnOnce(Progress) -> Progress,
    ) -> Result<(), Failure> {
        let (key, offsets) = (offset_key(stream), &mut self.tables.offsets);
        if offsets.get(self.writer.view, &key).is_some_and(&wanted) {
            let row = offsets.lock(&mut self.writer, &key, Mode::Exclusive)?;
            if let Some(row) = row.filter(wanted) {
                offsets.update(&mut self.writer, &key, changed(row))?;
            }
        }
        Ok(())
    }
}
