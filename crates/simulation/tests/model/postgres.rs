//! A sequence of operations on a real Postgres, compared with what the model said.

use std::time::Duration;

use local_stack::testing::TestDatabase;
use storage::outbox::RowVersion;
use storage::{Connection, Database, Session, StorageError};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_postgres::Client;

use crate::answer::Answer;
use crate::contents;
use crate::on_postgres::{EFFECTS, on_postgres};
use crate::operation::Operation;
use crate::run::{ABORTED, CANCELLED, DEADLOCK, Outcome, SESSIONS, Step, said};

const NAMES: [&str; SESSIONS] = ["session 0", "session 1", "session 2", "session 3"];
const LIMIT: Duration = Duration::from_secs(20);

pub(crate) enum Difference {
    Found(String),
    /// A lock was waited for until a limit of the real statement, because this machine was busy.
    Inconclusive,
}

type Running = JoinHandle<(Box<Connection>, Result<Answer, StorageError>)>;

enum Real {
    Idle(Box<Connection>),
    Waiting(Running),
    Gone,
}

pub(crate) struct PostgresRun {
    database: Database,
    name: String,
    client: Client,
    sessions: Vec<Real>,
    versions: Vec<RowVersion>,
}

impl PostgresRun {
    pub(crate) async fn connect(test: &TestDatabase) -> Self {
        let client = test.connect().await;
        client.batch_execute(EFFECTS).await.unwrap();
        let name = client.query_one("select current_database()::text", &[]);
        let name = name.await.unwrap().get(0);
        let mut run = Self {
            database: test.url().parse().unwrap(),
            name,
            client,
            sessions: Vec::new(),
            versions: Vec::new(),
        };
        run.reconnect().await;
        run
    }

    /// New sessions, and nothing of the old ones.
    pub(crate) async fn reconnect(&mut self) {
        for session in self.sessions.drain(..) {
            if let Real::Waiting(running) = session {
                running.abort();
            }
        }
        let end = "select pg_terminate_backend(pid) from pg_stat_activity \
                   where application_name like 'session _' and datname = current_database()";
        self.client.batch_execute(end).await.unwrap();
        let prepared = "select gid from pg_prepared_xacts where database = current_database()";
        for row in self.client.query(prepared, &[]).await.unwrap() {
            let gid: String = row.get(0);
            let rollback = format!("rollback prepared '{gid}'");
            self.client.batch_execute(&rollback).await.unwrap();
        }
        for name in NAMES {
            let session = Session::long_running(name).with_index_plans();
            let connection = self.database.connect(&session).await.unwrap();
            self.sessions.push(Real::Idle(Box::new(connection)));
        }
    }

    pub(crate) async fn clear(&mut self) {
        self.versions.clear();
        contents::clear(&self.client).await;
    }

    pub(crate) async fn contents(&self) -> Vec<String> {
        contents::of_postgres(&self.client).await
    }

    /// Does what the model did; an error where it does otherwise.
    pub(crate) async fn follow(&mut self, step: &Step) -> Result<(), Difference> {
        let Step {
            session,
            operation,
            outcome,
            resumed,
        } = step;
        match outcome {
            Outcome::Done(expected) => {
                if *operation == Operation::Cancel {
                    self.cancel(*session).await;
                } else {
                    self.start(*session, operation.clone());
                }
                self.finish(*session, expected).await?;
            }
            Outcome::Waits => {
                self.start(*session, operation.clone());
                self.assert_waits(*session).await?;
            }
            Outcome::Avoided => {
                self.start(*session, Operation::Rollback);
                self.finish(*session, &Answer::of(())).await?;
            }
        }
        for (session, expected) in resumed {
            self.finish(*session, expected).await?;
        }
        for (nth, session) in self.sessions.iter().enumerate() {
            if let Real::Waiting(running) = session
                && running.is_finished()
            {
                return Err(Self::went_on(nth));
            }
        }
        Ok(())
    }

    async fn cancel(&self, session: usize) {
        let cancel = "select pg_cancel_backend(pid) from pg_stat_activity \
                      where application_name = $1 and datname = current_database()";
        let cancelled = self.client.query_one(cancel, &[&NAMES[session]]).await;
        assert!(cancelled.unwrap().get::<_, bool>(0));
    }

    fn start(&mut self, session: usize, operation: Operation) {
        use Operation::{CommitPrepared, Prepare, RollbackPrepared};
        // Names of prepared transactions are those of the whole server.
        let named = |name| format!("{name} of {}", self.name);
        let operation = match operation {
            Prepare(name) => Prepare(named(name)),
            CommitPrepared(name) => CommitPrepared(named(name)),
            RollbackPrepared(name) => RollbackPrepared(named(name)),
            operation => operation,
        };
        let real = std::mem::replace(&mut self.sessions[session], Real::Gone);
        let Real::Idle(mut connection) = real else {
            panic!("session {session} is busy");
        };
        let versions = self.versions.clone();
        self.sessions[session] = Real::Waiting(tokio::spawn(async move {
            let answer = on_postgres(&mut connection, &operation, &versions).await;
            (connection, answer)
        }));
    }

    async fn finish(&mut self, session: usize, expected: &Answer) -> Result<(), Difference> {
        let Real::Waiting(running) = &mut self.sessions[session] else {
            panic!("session {session} is idle");
        };
        let Ok(ended) = timeout(LIMIT, running).await else {
            return Err(Difference::Found(format!(
                "session {session} waits, and the model says {}",
                expected.text
            )));
        };
        let (connection, answer) = ended.unwrap();
        self.sessions[session] = Real::Idle(connection);
        let answer = answer.map_or_else(|error| failure(&error), Ok)?;
        if answer.text != expected.text {
            return Err(Difference::Found(format!(
                "session {session}: Postgres says\n{}\nand the model\n{}",
                answer.text, expected.text
            )));
        }
        self.versions.extend(answer.versions);
        Ok(())
    }

    async fn assert_waits(&mut self, session: usize) -> Result<(), Difference> {
        let waits = "select exists (select from pg_stat_activity where application_name = $1 \
                     and datname = current_database() and wait_event_type = 'Lock')";
        let look = async {
            loop {
                if let Real::Waiting(running) = &self.sessions[session]
                    && running.is_finished()
                {
                    return true;
                }
                let row = self.client.query_one(waits, &[&NAMES[session]]).await;
                if row.unwrap().get(0) {
                    return false;
                }
                sleep(Duration::from_millis(1)).await;
            }
        };
        match timeout(LIMIT, look).await {
            Ok(false) => Ok(()),
            Ok(true) => Err(Self::went_on(session)),
            Err(_) => Err(Difference::Found(format!(
                "session {session} neither waits nor answers"
            ))),
        }
    }

    /// The model says that it waits.
    fn went_on(session: usize) -> Difference {
        Difference::Found(format!("session {session} does not wait, but in the model"))
    }
}

fn failure(error: &StorageError) -> Result<Answer, Difference> {
    let message = error.to_string();
    Ok(said(
        if message.contains("current transaction is aborted") {
            ABORTED
        } else if message.contains("due to lock timeout") {
            return Err(Difference::Inconclusive);
        } else if message.contains("deadlock detected") {
            DEADLOCK
        } else if message.contains("due to user request") {
            CANCELLED
        } else {
            &message
        },
    ))
}
