//! What this process's user may not do to a Kafka that asks: <https://kafka.apache.org/protocol>.

use local_stack::testing::admin::{put_text, request};
use local_stack::testing::eventually;

use crate::own_kafka::OwnKafka;
use crate::support::PATIENCE;

const DESCRIBE_ACLS: i16 = 29;
const CREATE_ACLS: i16 = 30;
const DELETE_ACLS: i16 = 31;

const ANY: u8 = 1;
const LITERAL: u8 = 3;
const DENY: u8 = 2;
const ALLOW: u8 = 3;
/// Who connects without saying who they are.
const EVERYBODY_HERE: &str = "User:ANONYMOUS";
/// As an array's or a text's length.
const NONE: [u8; 2] = (-1_i16).to_be_bytes();

/// What there is a right to.
#[derive(Clone, Copy)]
pub(crate) enum Resource<'a> {
    Topic(&'a str),
    Cluster,
}

/// What may be done with it.
#[derive(Clone, Copy)]
pub(crate) enum Operation {
    All = 2,
    Write = 4,
    Create = 5,
    Describe = 8,
}

impl Resource<'_> {
    fn put(self, out: &mut Vec<u8>) {
        let (kind, name) = match self {
            Self::Topic(name) => (2, name),
            Self::Cluster => (4, "kafka-cluster"),
        };
        out.push(kind);
        put_text(out, name);
        out.push(LITERAL);
    }
}

impl OwnKafka {
    /// One whose users have all rights until some are taken away.
    pub(crate) async fn with_rights() -> Self {
        Self::start_with(&[
            (
                "authorizer.class.name",
                "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            ),
            ("allow.everyone.if.no.acl.found", "true"),
        ])
        .await
    }

    /// From now on `operation` is refused, and nothing else is.
    pub(crate) async fn refuse(&self, resource: Resource<'_>, operation: Operation) {
        let mut body = 2_i32.to_be_bytes().to_vec();
        // What has a rule is closed to whoever no rule lets in.
        for (operation, permission) in [(Operation::All, ALLOW), (operation, DENY)] {
            resource.put(&mut body);
            put_text(&mut body, EVERYBODY_HERE);
            put_text(&mut body, "*");
            body.extend([operation as u8, permission]);
        }
        let answer = request(&self.brokers, (CREATE_ACLS, 1), &body).await;
        // Behind the request's number, the throttle's time and the number of rules: of each a code and
        // an empty message.
        assert_eq!(answer[12..], [0; 8]);
        eventually("the broker to know", PATIENCE, async || {
            let mut body = Vec::new();
            resource.put(&mut body);
            body.extend([NONE, NONE].concat());
            body.extend([operation as u8, DENY]);
            let answer = request(&self.brokers, (DESCRIBE_ACLS, 1), &body).await;
            // Behind the number and the time: a code, no message, and how many resources have such
            // a rule.
            assert_eq!(answer[8..10], [0, 0], "{answer:?}");
            (answer[12..16] == 1_i32.to_be_bytes()).then_some(())
        })
        .await;
    }

    /// Nothing is refused any more.
    pub(crate) async fn refuse_nothing(&self) {
        let mut body = 1_i32.to_be_bytes().to_vec();
        body.push(ANY);
        body.extend(NONE);
        body.push(ANY);
        body.extend([NONE, NONE].concat());
        body.extend([ANY, ANY]);
        let answer = request(&self.brokers, (DELETE_ACLS, 1), &body).await;
        assert_eq!(answer[12..14], [0, 0], "{answer:?}");
    }
}
