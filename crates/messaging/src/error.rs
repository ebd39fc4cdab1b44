//! How a request can fail, and what a failure means for the caller.

use std::time::Duration;

use rskafka::client::error::{Error as ClientError, ProtocolError};

use crate::topic_name::InvalidTopicName;

/// An error code of Kafka's protocol.
pub use rskafka::client::error::ProtocolError as ErrorCode;

/// The reason shown if a topic exists but this client may not describe it.
pub const HIDDEN_TOPIC: &str = "the topic exists, but this client may not describe it";

/// A request that failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum KafkaError {
    /// The broker answered with an error of the protocol.
    #[error("kafka: {code}{}", detail.as_deref().map(|d| format!(": {d}")).unwrap_or_default())]
    Broker {
        code: ProtocolError,
        detail: Option<String>,
    },
    /// No usable answer: the connection could not be made, broke, or carried nonsense.
    #[error("kafka: {0}")]
    Connection(String),
    /// The bytes at this offset are not records. The next batch begins at `end`, if that is
    /// readable.
    #[error("kafka: the record batch at offset {offset} cannot be read: {reason}")]
    Unreadable {
        offset: i64,
        end: Option<i64>,
        reason: String,
    },
    /// Another record is where one was read before: the topic was deleted and created again.
    #[error("kafka: the record at offset {offset} is not the one read before")]
    AnotherRecord { offset: i64 },
    /// No topic can have this name, so no request was sent.
    #[error(transparent)]
    TopicName(#[from] InvalidTopicName),
    /// No answer in time; whether the request took effect is unknown.
    #[error("kafka gave no answer within {0:?}")]
    Deadline(Duration),
}

/// What a failure means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// Ends by itself: network, elections, slow replicas, clocks. Try again for ever.
    Transient,
    /// An operator must act: rights, a missing topic. Try again too, and report it.
    Configuration,
    /// The record itself cannot be stored, now or later.
    Impossible,
    /// The partition does not have the requested offset.
    OutOfRange,
}

impl KafkaError {
    /// The error for a topic that exists but is not listed.
    pub fn hidden_topic() -> Self {
        Self::Broker {
            code: ProtocolError::UnknownTopicOrPartition,
            detail: Some(HIDDEN_TOPIC.to_owned()),
        }
    }

    /// What the refusal to create a topic says: a request that Kafka calls invalid there will be so
    /// again, and what is wrong with it is the topic. Of other requests the same code says little.
    pub(crate) fn of_creation(self) -> Self {
        match self {
            Self::Broker {
                code: ProtocolError::InvalidRequest,
                detail,
            } => Self::Broker {
                code: ProtocolError::InvalidTopicException,
                detail,
            },
            other => other,
        }
    }

    /// See [`ErrorKind`].
    pub fn kind(&self) -> ErrorKind {
        use ProtocolError as P;
        match self {
            Self::Connection(_) | Self::Deadline(_) => ErrorKind::Transient,
            Self::Unreadable { .. } | Self::AnotherRecord { .. } => ErrorKind::Configuration,
            Self::TopicName(_) => ErrorKind::Impossible,
            Self::Broker { code, .. } => match code {
                P::MessageTooLarge
                | P::RecordListTooLarge
                | P::InvalidRecord
                | P::InvalidTopicException => ErrorKind::Impossible,
                P::OffsetOutOfRange => ErrorKind::OutOfRange,
                P::UnknownTopicOrPartition
                | P::TopicAuthorizationFailed
                | P::ClusterAuthorizationFailed
                | P::GroupAuthorizationFailed
                | P::SaslAuthenticationFailed
                | P::UnsupportedSaslMechanism
                | P::IllegalSaslState
                | P::SecurityDisabled
                | P::PolicyViolation
                | P::InvalidReplicationFactor
                | P::InvalidPartitions
                | P::InvalidConfig
                | P::UnsupportedVersion
                | P::InvalidRequiredAcks => ErrorKind::Configuration,
                _ => ErrorKind::Transient,
            },
        }
    }
}

impl KafkaError {
    /// Whether the request may have taken effect: repeating it may append its records twice.
    pub fn outcome_is_unknown(&self) -> bool {
        match self {
            Self::Connection(_) | Self::Deadline(_) => true,
            Self::Unreadable { .. } | Self::AnotherRecord { .. } | Self::TopicName(_) => false,
            Self::Broker { code, .. } => matches!(
                code,
                ProtocolError::RequestTimedOut
                    | ProtocolError::NotEnoughReplicasAfterAppend
                    | ProtocolError::NetworkException
            ),
        }
    }

    /// Whether the request was refused for its size.
    pub fn is_too_large(&self) -> bool {
        matches!(
            self,
            Self::Broker {
                code: ProtocolError::MessageTooLarge | ProtocolError::RecordListTooLarge,
                ..
            }
        )
    }

    /// Whether a broker said so.
    pub(crate) fn is_answer(&self) -> bool {
        matches!(self, Self::Broker { .. })
    }

    /// Whether brokers answer this for a moment after a topic was created or a leader changed.
    pub fn is_about_the_leader(&self) -> bool {
        use ProtocolError as P;
        matches!(
            self,
            Self::Broker {
                code: P::NotLeaderOrFollower
                    | P::LeaderNotAvailable
                    | P::UnknownTopicOrPartition
                    | P::UnknownTopicId,
                ..
            }
        )
    }

    /// Whether the topic or the partition does not exist.
    pub fn is_unknown_topic(&self) -> bool {
        matches!(
            self,
            Self::Broker {
                code: ProtocolError::UnknownTopicOrPartition,
                ..
            }
        )
    }
}

impl From<ClientError> for KafkaError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::ServerError {
                protocol_error,
                error_message,
                ..
            } => Self::Broker {
                code: protocol_error,
                detail: error_message,
            },
            // With its retries switched off the client wraps the first error in "retries failed".
            ClientError::RetryFailed(rskafka::BackoffError::DeadlineExceded { source, .. }) => {
                match source.downcast::<ClientError>() {
                    Ok(error) => Self::from(*error),
                    Err(other) => Self::Connection(other.to_string()),
                }
            }
            other => Self::Connection(other.to_string()),
        }
    }
}

/// Runs one request under a deadline.
pub(crate) async fn within<T>(
    limit: Duration,
    request: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, KafkaError> {
    match tokio::time::timeout(limit, request).await {
        Ok(outcome) => outcome.map_err(KafkaError::from),
        Err(_) => Err(KafkaError::Deadline(limit)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ProtocolError as P;

    fn broker(code: P) -> KafkaError {
        KafkaError::Broker { code, detail: None }
    }

    #[test]
    fn only_what_is_wrong_with_the_record_itself_is_impossible() {
        for (failure, codes) in [
            (
                ErrorKind::Impossible,
                &[
                    P::MessageTooLarge,
                    P::RecordListTooLarge,
                    P::InvalidRecord,
                    P::InvalidTopicException,
                ][..],
            ),
            (
                ErrorKind::Configuration,
                &[
                    P::UnknownTopicOrPartition,
                    P::TopicAuthorizationFailed,
                    P::ClusterAuthorizationFailed,
                    P::SaslAuthenticationFailed,
                    P::PolicyViolation,
                    P::InvalidReplicationFactor,
                ],
            ),
            (
                ErrorKind::Transient,
                &[
                    P::NotLeaderOrFollower,
                    P::LeaderNotAvailable,
                    P::NotEnoughReplicas,
                    P::NotEnoughReplicasAfterAppend,
                    P::RequestTimedOut,
                    P::NetworkException,
                    P::KafkaStorageError,
                    // The clock of a broker or of this machine is wrong.
                    P::InvalidTimestamp,
                    // The bytes were damaged on their way.
                    P::CorruptMessage,
                    P::UnknownServerError,
                    P::Unknown(12_345),
                ],
            ),
            (ErrorKind::OutOfRange, &[P::OffsetOutOfRange]),
        ] {
            for code in codes {
                assert_eq!(broker(*code).kind(), failure, "{code}");
            }
        }
        let deadline = KafkaError::Deadline(Duration::from_secs(35));
        assert_eq!(deadline.kind(), ErrorKind::Transient);
        let connection = KafkaError::Connection("closed".to_owned());
        assert_eq!(connection.kind(), ErrorKind::Transient);
        let name = KafkaError::from(InvalidTopicName::Internal);
        assert_eq!(name.kind(), ErrorKind::Impossible);
    }

    #[test]
    fn an_invalid_request_is_impossible_only_where_a_topic_is_created() {
        let invalid = broker(P::InvalidRequest);
        assert_eq!(invalid.kind(), ErrorKind::Transient);
        assert_eq!(invalid.of_creation().kind(), ErrorKind::Impossible);
        let refused = broker(P::PolicyViolation);
        assert_eq!(refused.of_creation().kind(), ErrorKind::Configuration);
    }

    #[test]
    fn what_may_have_been_appended_is_known_to_be_unknown() {
        for code in [
            P::RequestTimedOut,
            P::NotEnoughReplicasAfterAppend,
            P::NetworkException,
        ] {
            assert!(broker(code).outcome_is_unknown(), "{code}");
        }
        for code in [P::NotLeaderOrFollower, P::NotEnoughReplicas] {
            assert!(!broker(code).outcome_is_unknown(), "{code}");
        }
        assert!(KafkaError::Deadline(Duration::ZERO).outcome_is_unknown());
        assert!(KafkaError::Connection(String::new()).outcome_is_unknown());
    }
}
