//! A relay that stands still for longer than its leases last, and wakes up among successors.

use std::time::Duration;

use local_stack::testing::{Fault, KafkaProxy, Spawned, eventually};

use crate::kafka_outage::metric;
use crate::load::Load;
use crate::process::BINARY;
use crate::sharing::MOST_IN_FLIGHT;
use crate::support::{Fixture, PARTITIONS, PATIENCE};

/// Who did what, by the name each relay's sessions carry. A hold is noted with the owner that its
/// slot has at that moment.
const AUDIT: &str = "\
create table audit (who text, what text, owner uuid, was uuid, was_alive bool, grown bigint);
create function audit_held() returns trigger language plpgsql as $$
begin
    insert into audit select current_setting('audit.who', true), 'hold', l.owner
    from lease l where l.scope = 'outbox-relay' and l.unit = new.slot;
    return null;
end $$;
create trigger audit after insert on outbox_held for each row execute function audit_held();
create function audit_lease() returns trigger language plpgsql as $$
begin
    insert into audit select current_setting('audit.who', true), 'lease', new.owner, old.owner,
        exists (select from lease_member m
                where m.member_id = old.owner and m.expires_at > clock_timestamp()),
        new.epoch - old.epoch;
    return null;
end $$;
create trigger audit after update on lease for each row execute function audit_lease();
create function audit_other() returns trigger language plpgsql as $$
begin
    insert into audit values (current_setting('audit.who', true), tg_op || ' ' || tg_relname);
    return null;
end $$;
create trigger audit after update or delete on outbox_event for each row
execute function audit_other();
create trigger audit after update or delete on outbox_published for each row
execute function audit_other();
create trigger audit_other after update or delete on outbox_held for each row
execute function audit_other();
create trigger audit after update on outbox_pending for each row execute function audit_other();";

/// Everything in `audit` that no relay may do: hold an event of a slot that is not its own, take or
/// give back what another live one owns, or change anything that is neither a mark nor a hold.
const FORBIDDEN: &str = "\
with member as (select distinct who, owner from audit where what = 'lease' and owner is not null)
select count(*) from audit a where who <> '' and case a.what
    when 'hold' then not exists (select from member m where m.who = a.who and m.owner = a.owner)
    when 'lease' then case
        when a.owner is null then
            a.was is not null and not exists (
                select from member m where m.who = a.who and m.owner = a.was)
        else a.was_alive or a.grown <> 1 end
    else true end";

impl Fixture {
    fn named_relay(&self, who: &str) -> Spawned {
        let mut variables = self.small_batches("2s");
        let url = &mut variables[0].1;
        *url = format!("{url}?options=-c%20audit.who%3D{who}");
        Spawned::start(BINARY, &["run"], variables)
    }

    /// Events that can never be sent, so that there is something to hold at any moment.
    async fn write_poison(&self) {
        self.sql
            .execute(
                "insert into outbox_event (event_id, topic, key, event_type, payload)
                 select gen_random_uuid(), 'no such: topic!', 'p' || n % 50, 'T', '{}'
                 from generate_series(1, 200) n",
                &[],
            )
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_p4_p6_a_relay_that_slept_through_its_leases_changes_nothing_but_marks() {
    let fixture = Fixture::new().await;
    fixture.sql.batch_execute(AUDIT).await.unwrap();
    let relays = [fixture.named_relay("first"), fixture.named_relay("second")];
    fixture.until_shared_by(2).await;
    let load = Load::of(&fixture, 40).await;
    let mut poison = 0;
    for (sleeper, rounds) in relays.iter().cycle().zip(0..4) {
        fixture.until_more_are_published(200).await;
        fixture.write_poison().await;
        poison += 200;
        // In the middle of whatever it does just then.
        tokio::time::sleep(Duration::from_millis(5 * rounds)).await;
        sleeper.pause();
        eventually("the other to own all", PATIENCE, async || {
            (fixture.shares().await == [32]).then_some(())
        })
        .await;
        fixture.until_more_are_published(200).await;
        sleeper.resume();
        fixture.until_shared_by(2).await;
    }
    let copies = fixture.assert_all_arrive_in_order(load).await;
    println!("{copies} copies after 4 sleeps");
    assert!(copies <= 4 * MOST_IN_FLIGHT, "{copies}");
    eventually("the poison to be held", PATIENCE, async || {
        let held = fixture.count("dead").await + fixture.count("blocked").await;
        (held == poison).then_some(())
    })
    .await;
    let forbidden = fixture.number(FORBIDDEN).await;
    assert_eq!(forbidden, 0);
    let holders = "select count(distinct who) from audit where what = 'hold' and who <> ''";
    let holders = fixture.number(holders).await;
    assert_eq!(holders, 2, "both were watched");
}

#[tokio::test(flavor = "multi_thread")]
async fn p4_p6_what_a_relay_could_not_send_before_it_slept_it_does_not_send_after() {
    let fixture = Fixture::new().await;
    let proxy = KafkaProxy::start(&fixture.brokers).await;
    proxy.set(&fixture.topic, Some(Fault::Refuse));
    let mut variables = fixture.variables();
    variables.push(("KAFKA_BROKERS", proxy.brokers()));
    let sleeper = Spawned::start(BINARY, &["run"], variables);
    let ops = sleeper.ops_address(PATIENCE).await;
    let keys: Vec<String> = (0..900).map(|n| format!("k{}", n % 300)).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    fixture.write(&keys).await;
    eventually("it to try", PATIENCE, async || {
        (metric(ops, "outbox_retried_total").await > 10).then_some(())
    })
    .await;
    sleeper.pause();
    let _successor = Spawned::start(BINARY, &["run"], fixture.variables());
    fixture.until_published(900).await;
    proxy.set(&fixture.topic, None);
    sleeper.resume();
    eventually("it to let go of what it had", PATIENCE, async || {
        (metric(ops, "outbox_in_flight ").await == 0).then_some(())
    })
    .await;
    assert_eq!(metric(ops, "outbox_lease_losses_total").await, 32);
    let (by_key, copies) = fixture.published_by_key().await;
    assert_eq!(by_key.values().map(Vec::len).sum::<usize>(), 900);
    println!("{copies} copies");
    // It may have slept in the middle of a request to each partition, of 7,900 bytes at most.
    let partitions = usize::try_from(PARTITIONS).unwrap();
    assert!(copies <= partitions * 40, "{copies}\n{}", sleeper.log());
}
