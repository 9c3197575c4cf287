//! Entries of every kind with every kind of text, for properties.

use std::num::NonZeroU32;
use std::sync::Arc;

use key_server_core::{
    Event, KeyFacts, KeyId, KeysReleased, KeysSelected, ModelName, MovedAllocation, Outcome,
    OwnWeight, Pick, Rules, SessionExpired, SessionMovedIn, SessionMovedOut, SessionRef, Tier,
    TierTable, Time, Tokens, Usage, UsageTracked,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::record::{
    CallNoted, Caller, CallsCounted, Durability, Entry, Fact, RemovalReason, SegmentRemoved,
};

fn text() -> impl Strategy<Value = Arc<str>> {
    let nasty = select(vec![
        "",
        "\"",
        "\\",
        "\\\"",
        "a\"b\\c/d",
        "\0\u{1}\u{8}\t\n\u{c}\r\u{1f}\u{7f}\u{80}",
        "\u{2028}\u{2029}\u{feff}",
        "ключ 鍵 🔑 \u{10ffff}",
        "\",\"crc\":\"00000000\"}\n{",
        "\\u0041",
    ]);
    let any = any::<String>();
    prop_oneof![
        nasty.prop_map(Arc::from),
        any.prop_map(Arc::from),
        "[ -~]{0,30}".prop_map(Arc::from)
    ]
}

fn model() -> impl Strategy<Value = ModelName> {
    (text(), text()).prop_filter_map("not a model", |(provider, model)| {
        let visible = |c: &char| !c.is_whitespace() && !c.is_control();
        let provider: String = provider.chars().filter(visible).filter(|c| *c != '/').collect();
        let model: String = model.chars().filter(visible).collect();
        format!("p{provider}/m{model}").parse().ok()
    })
}

fn key() -> impl Strategy<Value = KeyId> {
    any::<[u8; 32]>().prop_map(|digest| KeyId::from_digest(&digest))
}

fn time() -> impl Strategy<Value = Time> {
    any::<u64>().prop_map(Time::from_ms)
}

fn session() -> impl Strategy<Value = SessionRef> {
    (any::<u32>(), text()).prop_map(|(owner, id)| SessionRef { owner, id })
}

fn facts() -> impl Strategy<Value = Arc<KeyFacts>> {
    let own_weight = (0..=OwnWeight::MAX.thousandths())
        .prop_filter_map("too heavy", OwnWeight::from_thousandths);
    let max_holders = any::<Option<u32>>().prop_map(|max| max.and_then(NonZeroU32::new));
    let label = proptest::option::of(text());
    (key(), vec(model(), 0..4), own_weight, max_holders, label, vec(text(), 0..3)).prop_map(
        |(key, models, own_weight, max_holders, label, sources)| {
            Arc::new(KeyFacts { key, models, own_weight, max_holders, label, sources })
        },
    )
}

fn pick() -> impl Strategy<Value = Pick> {
    let tier = select(vec![Tier::Unused, Tier::Light, Tier::Moderate, Tier::Heavy]);
    (model(), key(), tier, any::<(bool, u32, u64, u64)>()).prop_map(|(model, key, tier, rest)| {
        let (already_held, candidates, weight, total_weight) = rest;
        Pick { model, key, tier, already_held, candidates, weight, total_weight }
    })
}

fn selected() -> impl Strategy<Value = KeysSelected> {
    (session(), any::<(i32, bool, u64)>(), time(), vec(pick(), 0..4)).prop_map(
        |(session, (user, opened, seed), deadline, picks)| KeysSelected {
            session,
            user,
            opened,
            deadline,
            seed,
            picks,
        },
    )
}

fn tracked() -> impl Strategy<Value = UsageTracked> {
    let outcome = select(vec![
        Outcome::Success,
        Outcome::RateLimited,
        Outcome::AuthFailed,
        Outcome::ProviderError,
        Outcome::Cancelled,
    ]);
    let tokens = any::<(u64, u64, u64)>().prop_map(|(input, output, cached_input)| Tokens {
        input,
        output,
        cached_input,
    });
    let until = || proptest::option::of(time());
    let what = (session(), any::<(i32, bool)>(), key(), model(), tokens);
    (what, outcome, text(), time(), until(), until()).prop_map(
        |(what, outcome, event_id, occurred, deadline, cooling_until)| {
            let (session, (user, late), key, model, tokens) = what;
            UsageTracked {
                session,
                user,
                key,
                model,
                tokens,
                outcome,
                event_id,
                occurred,
                late,
                deadline,
                cooling_until,
            }
        },
    )
}

fn moved_in() -> impl Strategy<Value = SessionMovedIn> {
    let usage = any::<(u64, u64, u64, u64, u64)>().prop_map(
        |(requests, failures, input, output, cached_input)| Usage {
            requests,
            failures,
            tokens: Tokens { input, output, cached_input },
        },
    );
    let allocation = (model(), key(), usage).prop_map(|(model, key, usage)| MovedAllocation {
        model,
        key,
        usage,
    });
    let what = (session(), any::<(i32, u32, u32)>(), time(), time(), text());
    (what, vec(allocation, 0..4)).prop_map(|(what, allocations)| {
        let (session, (user, term, base), opened, deadline, from) = what;
        SessionMovedIn { session, user, opened, deadline, from, term, base, allocations }
    })
}

fn event() -> impl Strategy<Value = Event> {
    let released = (session(), vec((model(), key()), 0..4), proptest::option::of(time()));
    prop_oneof![
        facts().prop_map(Event::KeyAdded),
        facts().prop_map(Event::KeyChanged),
        key().prop_map(|key| Event::KeyRetired { key }),
        selected().prop_map(Event::KeysSelected),
        tracked().prop_map(Event::UsageTracked),
        released.prop_map(|(session, allocations, deadline)| {
            Event::KeysReleased(KeysReleased { session, allocations, deadline })
        }),
        session().prop_map(|session| Event::SessionExpired(SessionExpired { session })),
        moved_in().prop_map(Event::SessionMovedIn),
        (session(), text(), any::<u32>()).prop_map(|(session, to, term)| {
            Event::SessionMovedOut(SessionMovedOut { session, to, term })
        }),
    ]
}

fn rules() -> impl Strategy<Value = Box<Rules>> {
    let numbers = any::<(u64, u64, [u32; 4], [u32; 4], [u32; 3], u32)>();
    numbers.prop_map(|(moderate_tokens, heavy_tokens, weights, spans, counts, max_holders)| {
        let span = |place: usize| std::time::Duration::from_millis(spans[place].into());
        Box::new(Rules {
            tiers: TierTable { moderate_tokens, heavy_tokens, weights },
            session_ttl: span(0),
            ended_session_ttl: span(1),
            cooldown: span(2),
            cooldown_max: span(3),
            ended_sessions_max: counts[0] as usize,
            sessions_max: counts[1] as usize,
            session_allocations_max: counts[2] as usize,
            max_holders,
        })
    })
}

fn call() -> impl Strategy<Value = CallNoted> {
    use proptest::option::of;
    (text(), of(text()), of(session()), of(model()), of(key())).prop_map(
        |(verb, reason, session, model, key)| CallNoted { verb, reason, session, model, key },
    )
}

fn calls() -> impl Strategy<Value = CallsCounted> {
    (text(), proptest::option::of(text()), any::<(Option<u32>, u64)>(), time()).prop_map(
        |(verb, reason, (uid, count), since)| CallsCounted { verb, reason, uid, count, since },
    )
}

fn removed() -> impl Strategy<Value = SegmentRemoved> {
    let why = select(vec![RemovalReason::Age, RemovalReason::Size]);
    (any::<(u64, u64, u64, [u8; 32], [u8; 32])>(), why).prop_map(|(numbers, why)| {
        let (first_seq, last_seq, bytes, first_hash, last_hash) = numbers;
        SegmentRemoved { first_seq, last_seq, first_hash, last_hash, bytes, why }
    })
}

fn fact() -> impl Strategy<Value = Fact> {
    let durability = select(vec![Durability::Disk, Durability::Process]);
    prop_oneof![
        8 => event().prop_map(Fact::Domain),
        1 => (text(), durability)
            .prop_map(|(version, durability)| Fact::NodeStarted { version, durability }),
        1 => Just(Fact::NodeStopped),
        1 => (any::<u64>(), time(), text()).prop_map(|(refused_count, since, error)| {
            Fact::LedgerResumed { refused_count, since, error }
        }),
        1 => (rules(), any::<bool>())
            .prop_map(|(rules, shares)| Fact::RulesSet { rules, shares }),
        1 => call().prop_map(Fact::CallNoted),
        1 => calls().prop_map(Fact::CallsCounted),
        1 => removed().prop_map(Fact::SegmentRemoved),
    ]
}

pub(super) fn entry() -> impl Strategy<Value = Entry> {
    let caller = (any::<(u32, u32, u32, Option<u64>)>(), proptest::option::of(text())).prop_map(
        |((uid, gid, pid, started_ms), exe)| Arc::new(Caller { uid, gid, pid, started_ms, exe }),
    );
    (proptest::option::of(caller), fact()).prop_map(|(caller, fact)| Entry { caller, fact })
}

pub(super) fn node() -> impl Strategy<Value = Arc<str>> {
    text()
}
