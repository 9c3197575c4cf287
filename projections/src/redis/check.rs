//! What an operator should know of the server.

use redis::from_redis_value;

use crate::redis::Shared;
use crate::redis::fault::Fault;

const VERSION_MIN: (u32, u32) = (6, 2);

impl Shared {
    /// Looks at the server: refuses one that is too old, and answers what an
    /// operator should know, in words. What the node may not see is left out.
    /// What is only good to know is logged the first time.
    pub(crate) async fn check(&self, is_first: bool) -> Result<Vec<String>, Fault> {
        let info = match self.publisher.ask_one(redis::cmd("INFO")).await {
            Ok(info) => from_redis_value::<String>(info)?,
            Err(fault) if fault.is_not_offered() => return Ok(Vec::new()),
            Err(fault) => return Err(fault),
        };
        let info = Info(&info);
        if let Some(version) = info.field("redis_version").filter(|version| is_too_old(version)) {
            return Err(Fault::Foreign(format!(
                "it is version {version}: use Redis 6.2 or later, or Valkey"
            )));
        }
        if is_first && info.field("aof_enabled") == Some("0") {
            self.tell_whether_it_saves().await?;
        }
        Ok([eviction(&info), replica(&info)].into_iter().flatten().collect())
    }

    async fn tell_whether_it_saves(&self) -> Result<(), Fault> {
        if self.saves().await?.as_deref() == Some("") {
            tracing::info!(
                "Redis keeps nothing on disk: after a restart of it everything is published again \
                 (harmless; appendonly yes avoids it)"
            );
        }
        Ok(())
    }

    /// When the server saves everything, as its settings say it.
    async fn saves(&self) -> Result<Option<String>, Fault> {
        let mut command = redis::cmd("CONFIG");
        command.arg("GET").arg("save");
        match self.publisher.ask_one(command).await {
            Ok(answer) => {
                let pair: Vec<String> = from_redis_value(answer)?;
                Ok(pair.into_iter().nth(1))
            }
            Err(fault) if fault.is_not_offered() => Ok(None),
            Err(fault) => Err(fault),
        }
    }
}

/// What `INFO` says: lines as in `field:value`.
struct Info<'text>(&'text str);

impl<'text> Info<'text> {
    fn field(&self, name: &str) -> Option<&'text str> {
        let fields = self.0.lines().filter_map(|line| line.split_once(':'));
        fields.clone().find(|(field, _)| *field == name).map(|(_, value)| value.trim())
    }
}

fn is_too_old(version: &str) -> bool {
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) < VERSION_MIN
}

fn eviction(info: &Info<'_>) -> Option<String> {
    let policy = info.field("maxmemory_policy")?;
    if policy == "noeviction" || info.field("maxmemory") == Some("0") {
        return None;
    }
    Some(format!(
        "when Redis is full it throws away what is still needed (maxmemory-policy {policy}): set maxmemory-policy noeviction"
    ))
}

fn replica(info: &Info<'_>) -> Option<String> {
    if info.field("role") != Some("slave") {
        return None;
    }
    let master = info.field("master_host").zip(info.field("master_port"));
    let master = master.map_or_else(String::new, |(host, port)| format!(" ({host}:{port})"));
    Some(format!("this Redis is a read-only replica: name its master{master}, or its sentinels"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_before_6_2_are_too_old() {
        for (version, expected) in
            [("5.0.14", true), ("6.0.16", true), ("6.2.0", false), ("7.0.15", false), ("x", true)]
        {
            assert_eq!(is_too_old(version), expected, "{version}");
        }
    }

    #[test]
    fn only_a_server_with_a_limit_evicts() {
        let info =
            |max: u32, policy: &str| format!("maxmemory:{max}\r\nmaxmemory_policy:{policy}\r\n");
        assert_eq!(eviction(&Info(&info(0, "allkeys-lru"))), None);
        assert_eq!(eviction(&Info(&info(1, "noeviction"))), None);
        for policy in ["allkeys-lru", "volatile-ttl"] {
            let warning = eviction(&Info(&info(1, policy))).unwrap();
            assert!(warning.contains(policy) && warning.contains("noeviction"), "{warning}");
        }
    }
}
