//! What a process gives up before it takes work from others: so that a fault
//! in it is of little use.

use std::collections::BTreeMap;
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetStatus,
};
use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter_all_threads,
};

/// Whether the process connects to other machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// It connects, and never listens.
    ConnectsOut,
    /// It has nothing to do with networks.
    None,
}

/// Why there is no sandbox.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The kernel takes no filter, or not on this machine.
    #[error("the kernel does not take a filter of system calls: {0}")]
    Calls(String),
    /// Landlock is not there, or not enabled.
    #[error("the kernel has no Landlock")]
    NoLandlock,
    /// Landlock refused.
    #[error("Landlock cannot be used: {0}")]
    Files(String),
}

/// Files may be written and made only below `writable`, and none may be run;
/// reading stays as it is. TCP: no listening, and no connecting without
/// [`Network::ConnectsOut`]. For this thread and those that it begins from now
/// on. They may not look into processes of others either, in `/proc`.
///
/// # Errors
/// When nothing of it is in force. A kernel that knows a part of it does that.
pub fn limit_files(writable: &[&Path], network: Network) -> Result<(), SandboxError> {
    let files = |error: &dyn std::fmt::Display| SandboxError::Files(error.to_string());
    let writing = AccessFs::from_write(KNOWN);
    let ports = match network {
        Network::ConnectsOut => AccessNet::BindTcp.into(),
        Network::None => AccessNet::from_all(KNOWN),
    };
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(writing | AccessFs::Execute)
        .and_then(|ruleset| ruleset.handle_access(ports))
        .and_then(Ruleset::create);
    let mut ruleset = ruleset.map_err(|error| files(&error))?;
    for path in writable {
        let beneath = PathBeneath::new(PathFd::new(path).map_err(|error| files(&error))?, writing);
        ruleset = ruleset.add_rule(beneath).map_err(|error| files(&error))?;
    }
    match ruleset.restrict_self().map_err(|error| files(&error))?.ruleset {
        RulesetStatus::NotEnforced => Err(SandboxError::NoLandlock),
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(()),
    }
}

/// What the program was written for; later kernels do at least this.
const KNOWN: ABI = ABI::V5;

/// No running of programs, no children, no debugging or reading of other
/// processes, no listening, no networks but those that `network` names, no
/// mounts, modules, kernels, key rings or other corners of the kernel. Refused
/// calls fail with `EPERM`. For all threads, at once and for ever.
///
/// # Errors
/// When the kernel takes no filter.
pub fn limit_calls(network: Network) -> Result<(), SandboxError> {
    let calls = |error: &dyn std::fmt::Display| SandboxError::Calls(error.to_string());
    for filter in filters(network).map_err(|error| calls(&error))? {
        apply_filter_all_threads(&filter).map_err(|error| calls(&error))?;
    }
    Ok(())
}

/// What is not for a daemon that has its socket: see `man 2` of each.
const REFUSED: &[c_long] = &[
    // Other programs.
    libc::SYS_execve,
    libc::SYS_execveat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    // Listening.
    libc::SYS_bind,
    libc::SYS_listen,
    // What file systems look like, and for whom.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_open_by_handle_at,
    libc::SYS_quotactl,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    // The kernel itself.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_kexec_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_reboot,
    libc::SYS_syslog,
    libc::SYS_personality,
    libc::SYS_clock_settime,
    libc::SYS_settimeofday,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
];

fn filters(network: Network) -> Result<[BpfProgram; 2], seccompiler::BackendError> {
    let mut refused: BTreeMap<i64, Vec<SeccompRule>> =
        REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    refused.insert(libc::SYS_socket, vec![SeccompRule::new(other_families(network)?)?]);
    refused.insert(libc::SYS_clone, vec![SeccompRule::new(vec![makes_a_process()?])?]);
    // What it is to do is behind a pointer, where a filter cannot look. The C
    // library takes `clone` when it is told that there is no such call.
    let unknown = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    Ok([filter(refused, libc::EPERM)?, filter(unknown, libc::ENOSYS)?])
}

fn filter(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    errno: i32,
) -> Result<BpfProgram, seccompiler::BackendError> {
    let refusal = SeccompAction::Errno(errno.unsigned_abs());
    let arch = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, SeccompAction::Allow, refusal, arch)?.try_into()
}

/// Sockets of every family but these. The routing socket is for looking up
/// names.
fn other_families(network: Network) -> Result<Vec<SeccompCondition>, seccompiler::BackendError> {
    let networks = [libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
    let networks = networks.into_iter().filter(|_| network == Network::ConnectsOut);
    let known = networks.chain([libc::AF_UNIX]);
    let is_other = |family: i32| {
        let family = u64::from(family.unsigned_abs());
        SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, family)
    };
    known.map(is_other).collect()
}

/// A `clone` that does not make a thread.
fn makes_a_process() -> Result<SeccompCondition, seccompiler::BackendError> {
    let thread = u64::from(libc::CLONE_THREAD.unsigned_abs());
    SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(thread), 0)
}
