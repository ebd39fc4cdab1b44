//! An order: what a customer asked for. Once placed it can only be cancelled.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

/// An order as it was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    pub id: OrderId,
    pub product_id: ProductId,
    pub quantity: Quantity,
    /// UTC, whole microseconds: what Postgres stores, so that answer, row and event agree.
    pub created_at: OffsetDateTime,
    /// When it was cancelled, as precise; `None` while it stands.
    pub cancelled_at: Option<OffsetDateTime>,
}

/// The state of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OrderState {
    Placed,
    Cancelled,
}

/// An order that is too old to be cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the order could be cancelled until {}", rfc_3339(*until))]
pub struct TooLateToCancel {
    pub until: OffsetDateTime,
}

impl Order {
    /// Who writes the events of orders: their `ce_source`.
    pub const EVENT_SOURCE: &'static str = "/order-api";

    /// A new order with an id of its own. `now` is cut to whole microseconds.
    pub fn place(product_id: ProductId, quantity: Quantity, now: OffsetDateTime) -> Self {
        Self {
            id: OrderId::generate(),
            product_id,
            quantity,
            created_at: whole_microseconds(now),
            cancelled_at: None,
        }
    }

    pub fn state(&self) -> OrderState {
        match self.cancelled_at {
            None => OrderState::Placed,
            Some(_) => OrderState::Cancelled,
        }
    }

    /// Cancels it, unless it was cancelled before; returns whether it was not. It can be cancelled
    /// within `window` from when it was placed.
    ///
    /// # Errors
    /// It still stands, and the window is over.
    pub fn cancel(
        &mut self,
        now: OffsetDateTime,
        window: Duration,
    ) -> Result<bool, TooLateToCancel> {
        if self.cancelled_at.is_some() {
            return Ok(false);
        }
        if now - self.created_at >= window {
            let window = window.try_into().unwrap_or(time::Duration::MAX);
            return Err(TooLateToCancel {
                until: self.created_at.saturating_add(window),
            });
        }
        // Clocks differ between machines.
        self.cancelled_at = Some(whole_microseconds(now).max(self.created_at));
        Ok(true)
    }
}

/// What Postgres stores of a time, in UTC.
fn whole_microseconds(time: OffsetDateTime) -> OffsetDateTime {
    let micros = time.nanosecond() / 1_000 * 1_000;
    time.to_offset(time::UtcOffset::UTC)
        .replace_nanosecond(micros)
        .expect("cutting a valid nanosecond down leaves it valid")
}

fn rfc_3339(time: OffsetDateTime) -> String {
    time.format(&Rfc3339).unwrap_or_else(|_| time.to_string())
}

/// Identifies an order; also the key of its events. A UUID v7, so ids sort by the time of creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OrderId(Uuid);

impl OrderId {
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }

    pub const fn as_uuid(self) -> Uuid {
        self.0
    }
}

impl From<Uuid> for OrderId {
    fn from(id: Uuid) -> Self {
        Self(id)
    }
}

impl fmt::Display for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for OrderId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Uuid::parse_str(text).map(Self)
    }
}

/// Names a product: 1 to 64 letters, digits, `.`, `_` or `-` (ASCII).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ProductId(String);

/// A text that is no [`ProductId`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidProductId {
    #[error("must not be empty")]
    Empty,
    #[error("must be at most {} characters long", ProductId::MAX_LENGTH)]
    TooLong,
    #[error("may contain only letters, digits, '.', '_' and '-'")]
    ForbiddenCharacter,
}

impl ProductId {
    /// In characters, which are ASCII and so bytes too.
    pub const MAX_LENGTH: usize = 64;

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ProductId {
    type Error = InvalidProductId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if text.is_empty() {
            Err(InvalidProductId::Empty)
        } else if !text.chars().all(allowed) {
            Err(InvalidProductId::ForbiddenCharacter)
        } else if text.len() > Self::MAX_LENGTH {
            Err(InvalidProductId::TooLong)
        } else {
            Ok(Self(text))
        }
    }
}

impl FromStr for ProductId {
    type Err = InvalidProductId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::try_from(text.to_owned())
    }
}

impl From<ProductId> for String {
    fn from(id: ProductId) -> Self {
        id.0
    }
}

impl fmt::Display for ProductId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How many units of the product: 1 to 10,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub struct Quantity(u16);

/// A number that is no [`Quantity`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a whole number from 1 to {}", Quantity::MAX)]
pub struct InvalidQuantity;

impl Quantity {
    pub const MAX: u16 = 10_000;
    /// What an order means that names no quantity.
    pub const ONE: Self = Self(1);

    pub const fn get(self) -> u16 {
        self.0
    }
}

impl TryFrom<i64> for Quantity {
    type Error = InvalidQuantity;

    fn try_from(units: i64) -> Result<Self, Self::Error> {
        u16::try_from(units)
            .ok()
            .filter(|units| (1..=Self::MAX).contains(units))
            .map(Self)
            .ok_or(InvalidQuantity)
    }
}

impl From<Quantity> for i64 {
    fn from(quantity: Quantity) -> Self {
        quantity.0.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn product_ids_at_their_bounds() {
        let parse = |text: &str| text.parse::<ProductId>();
        assert!(parse("P").is_ok());
        assert!(parse("a.Z_9-").is_ok());
        assert!(parse(&"x".repeat(64)).is_ok());
        assert_eq!(parse(""), Err(InvalidProductId::Empty));
        assert_eq!(parse(&"x".repeat(65)), Err(InvalidProductId::TooLong));
        for wrong in ["a b", "a\0", "é", "a/b", " a"] {
            assert_eq!(
                parse(wrong),
                Err(InvalidProductId::ForbiddenCharacter),
                "{wrong:?}"
            );
        }
    }

    #[test]
    fn an_order_is_cut_to_what_postgres_stores() {
        let now = time::macros::datetime!(2026-05-01 10:00:00.123_456_789 +02:00);
        let order = Order::place("P-001".parse().unwrap(), Quantity::ONE, now);
        assert_eq!(
            order.created_at,
            time::macros::datetime!(2026-05-01 08:00:00.123_456 UTC)
        );
        assert_eq!(order.id.as_uuid().get_version_num(), 7);
    }

    #[test]
    fn an_order_is_cancelled_once_and_in_time() {
        let placed = time::macros::datetime!(2026-05-01 10:00:00 UTC);
        let window = Duration::from_hours(1);
        let order = Order::place("P-001".parse().unwrap(), Quantity::ONE, placed);
        assert_eq!(order.state(), OrderState::Placed);

        let mut late = order.clone();
        let error = late.cancel(placed + window, window).unwrap_err();
        assert_eq!(error.until, placed + window);
        assert_eq!(late, order);

        let mut cancelled = order;
        let now = placed + window - Duration::from_nanos(1);
        assert_eq!(cancelled.cancel(now, window), Ok(true));
        assert_eq!(cancelled.state(), OrderState::Cancelled);
        let at = time::macros::datetime!(2026-05-01 10:59:59.999_999 UTC);
        assert_eq!(cancelled.cancelled_at, Some(at));
        // It stays as it is, for ever.
        assert_eq!(cancelled.cancel(placed + window * 2, window), Ok(false));
        assert_eq!(cancelled.cancelled_at, Some(at));
    }

    proptest! {
        #[test]
        fn a_quantity_is_what_went_in_or_refused(units in any::<i64>()) {
            match Quantity::try_from(units) {
                Ok(quantity) => prop_assert_eq!(i64::from(quantity), units),
                Err(InvalidQuantity) => prop_assert!(!(1..=10_000).contains(&units)),
            }
        }
    }
}
