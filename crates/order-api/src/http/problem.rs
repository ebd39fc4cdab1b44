//! Every reason to refuse a request, in the form of RFC 9457: the one place that knows statuses,
//! types and titles. Clients see nothing internal; what an operator needs is logged here.

use actix_web::http::StatusCode;
use actix_web::http::header::{ALLOW, RETRY_AFTER};
use actix_web::{HttpResponse, ResponseError};
use domain::{OrderId, TooLateToCancel};
use serde::Serialize;
use utoipa::ToSchema;

use super::limits::{MAX_BODY, MAX_HEADERS, MAX_URI};
use crate::store::StoreError;

/// Seconds after which a client may repeat a request that failed temporarily.
const RETRY_AFTER_SECONDS: u64 = 1;

/// Why a request is refused. The text is the problem's `detail`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Problem {
    #[error("{reason}")]
    MalformedJson { reason: String },
    #[error("{reason}")]
    InvalidValue {
        field: Option<&'static str>,
        reason: String,
    },
    #[error("{reason}")]
    UnsupportedMediaType { reason: &'static str },
    #[error("the body must be at most {MAX_BODY} bytes long")]
    BodyTooLarge,
    #[error("the body did not arrive in time")]
    BodyTooSlow,
    #[error("path and query must be at most {MAX_URI} bytes long")]
    UriTooLong,
    #[error("the headers must be at most {MAX_HEADERS} bytes long")]
    HeadersTooLarge,
    #[error("there is nothing at this path")]
    NotFound,
    #[error("there is no order {id}")]
    OrderNotFound { id: String },
    #[error("this path allows {allow} only")]
    MethodNotAllowed { allow: &'static str },
    #[error("too many requests are in progress")]
    Busy,
    #[error("the database cannot be used now")]
    DatabaseUnavailable,
    #[error("the database schema is incomplete")]
    SchemaIncomplete,
    #[error(
        "the order may or may not have been stored, and its commit may still be under way: while GET \
         /orders/{order} finds nothing, that proves nothing; an Idempotency-Key makes it safe to \
         repeat the request"
    )]
    OutcomeUnknown { order: OrderId, has_key: bool },
    #[error("the order may or may not be cancelled; repeat the request")]
    CancellationUnknown { order: OrderId },
    #[error("{0}")]
    TooLateToCancel(TooLateToCancel),
    #[error("a request with this Idempotency-Key is in progress")]
    KeyInFlight,
    #[error("this Idempotency-Key was used for a request with another body")]
    KeyReused,
    #[error("internal error; the log has the cause")]
    Internal,
}

/// What all problems of one kind share.
pub(super) struct Kind {
    pub(super) status: StatusCode,
    /// Stable; clients compare it.
    pub(super) name: &'static str,
    pub(super) title: &'static str,
}

/// A refusal, in the form of RFC 9457.
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct Body {
    /// A stable name to compare, not an address.
    r#type: String,
    title: &'static str,
    status: u16,
    /// Text for people; may change.
    detail: String,
    /// The field, parameter or header that is to blame.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    field: Option<&'static str>,
    /// The order that may have been stored or cancelled.
    #[serde(rename = "orderId", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, format = "uuid", required = false)]
    order_id: Option<OrderId>,
}

impl Problem {
    /// What it means for a client that this order could not be placed.
    pub(super) fn from_placing(error: StoreError, order: OrderId, has_key: bool) -> Self {
        match error {
            StoreError::OutcomeUnknown { reason } => {
                tracing::warn!(%order, reason, "the outcome of a commit is unknown");
                Self::OutcomeUnknown { order, has_key }
            }
            other => Self::from_store(other),
        }
    }

    /// What it means for a client that this order could not be cancelled.
    pub(super) fn from_cancelling(error: StoreError, order: OrderId) -> Self {
        match error {
            StoreError::OutcomeUnknown { reason } => {
                tracing::warn!(%order, reason, "the outcome of a commit is unknown");
                Self::CancellationUnknown { order }
            }
            other => Self::from_store(other),
        }
    }

    /// What a failure of the store means for a client. Logs what the client does not see.
    pub(super) fn from_store(error: StoreError) -> Self {
        match error {
            // How long, and why, is known to the readiness check and the metrics; a line for each
            // request would say no more.
            StoreError::Busy(_) => Self::Busy,
            StoreError::Unavailable(reason) => {
                tracing::debug!(reason, "request refused, Postgres is not available");
                Self::DatabaseUnavailable
            }
            StoreError::SchemaIncomplete(_) => Self::SchemaIncomplete,
            StoreError::KeyInFlight => Self::KeyInFlight,
            StoreError::KeyReused => Self::KeyReused,
            StoreError::Failed(_)
            | StoreError::NoAnswer
            // Reading leaves nothing open; placing and cancelling are handled above.
            | StoreError::OutcomeUnknown { .. } => {
                tracing::error!(%error, "request failed");
                Self::Internal
            }
        }
    }

    #[rustfmt::skip] // a table
    pub(super) fn kind(&self) -> Kind {
        let kind = |status, name, title| Kind { status, name, title };
        match self {
            Self::MalformedJson { .. } => kind(StatusCode::BAD_REQUEST, "malformed-json", "The body is not JSON"),
            Self::NotFound => kind(StatusCode::NOT_FOUND, "not-found", "Not found"),
            Self::OrderNotFound { .. } => kind(StatusCode::NOT_FOUND, "order-not-found", "No such order"),
            Self::MethodNotAllowed { .. } => kind(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "Method not allowed"),
            Self::BodyTooSlow => kind(StatusCode::REQUEST_TIMEOUT, "body-too-slow", "The body did not arrive in time"),
            Self::BodyTooLarge => kind(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", "The body is too large"),
            Self::KeyInFlight => kind(StatusCode::CONFLICT, "key-in-flight", "The idempotency key is in use"),
            Self::KeyReused => kind(StatusCode::UNPROCESSABLE_ENTITY, "key-reused", "The idempotency key was used for another request"),
            Self::UnsupportedMediaType { .. } => kind(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", "Unsupported media type"),
            Self::UriTooLong => kind(StatusCode::URI_TOO_LONG, "uri-too-long", "The path is too long"),
            Self::HeadersTooLarge => kind(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "headers-too-large", "The headers are too large"),
            Self::InvalidValue { .. } => kind(StatusCode::UNPROCESSABLE_ENTITY, "invalid-value", "A value is missing or invalid"),
            Self::Internal => kind(StatusCode::INTERNAL_SERVER_ERROR, "internal-error", "Internal error"),
            Self::Busy => kind(StatusCode::SERVICE_UNAVAILABLE, "busy", "Too busy"),
            Self::DatabaseUnavailable => kind(StatusCode::SERVICE_UNAVAILABLE, "database-unavailable", "The database is unavailable"),
            Self::SchemaIncomplete => kind(StatusCode::SERVICE_UNAVAILABLE, "schema-incomplete", "The database schema is incomplete"),
            Self::OutcomeUnknown { .. } => kind(StatusCode::SERVICE_UNAVAILABLE, "outcome-unknown", "Outcome of the order unknown"),
            Self::CancellationUnknown { .. } => kind(StatusCode::SERVICE_UNAVAILABLE, "cancellation-unknown", "Outcome of the cancellation unknown"),
            Self::TooLateToCancel(_) => kind(StatusCode::CONFLICT, "too-late-to-cancel", "It is too late to cancel the order"),
        }
    }

    /// Whether the same request may be sent again blindly. Not when it may have succeeded: clients
    /// that heed the header by themselves would order twice.
    fn may_be_repeated(&self) -> bool {
        match self {
            Self::Busy
            | Self::DatabaseUnavailable
            | Self::SchemaIncomplete
            | Self::KeyInFlight
            | Self::CancellationUnknown { .. } => true,
            // Under a key, repeating it orders once.
            Self::OutcomeUnknown { has_key, .. } => *has_key,
            Self::MalformedJson { .. }
            | Self::InvalidValue { .. }
            | Self::UnsupportedMediaType { .. }
            | Self::BodyTooLarge
            | Self::BodyTooSlow
            | Self::NotFound
            | Self::OrderNotFound { .. }
            | Self::MethodNotAllowed { .. }
            | Self::UriTooLong
            | Self::HeadersTooLarge
            | Self::KeyReused
            | Self::TooLateToCancel(_)
            | Self::Internal => false,
        }
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.kind().status
    }

    fn error_response(&self) -> HttpResponse {
        let Kind {
            status,
            name,
            title,
        } = self.kind();
        let mut response = HttpResponse::build(status);
        if let Self::MethodNotAllowed { allow } = self {
            response.insert_header((ALLOW, *allow));
        }
        if self.may_be_repeated() {
            response.insert_header((RETRY_AFTER, RETRY_AFTER_SECONDS));
        }
        response
            .content_type("application/problem+json")
            .json(Body {
                r#type: format!("/problems/{name}"),
                title,
                status: status.as_u16(),
                detail: self.to_string(),
                field: match self {
                    Self::InvalidValue { field, .. } => *field,
                    _ => None,
                },
                order_id: match self {
                    Self::OutcomeUnknown { order, .. } | Self::CancellationUnknown { order } => {
                        Some(*order)
                    }
                    _ => None,
                },
            })
    }
}
