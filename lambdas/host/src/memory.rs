//! How much memory the process has had at most: what a function's memory must be set by.

/// The most memory that the process has had resident since its start, in bytes; 0 if the system does not tell.
pub fn peak_bytes() -> u64 {
    std::fs::read_to_string("/proc/self/status").ok().and_then(|status| peak_in(&status)).unwrap_or_default()
}

/// `VmHWM:    123456 kB`, where kB are KiB (proc_pid_status(5)).
fn peak_in(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_read_from_the_status() {
        assert_eq!(peak_in("Name:\tx\nVmHWM:\t   2048 kB\nVmRSS:\t 1 kB\n"), Some(2 << 20));
        assert_eq!(peak_in("Name:\tx\n"), None);
    }

    #[test]
    fn memory_that_was_used_shows() {
        let used = vec![1_u8; 8 << 20];
        assert!(peak_bytes() >= used.len() as u64, "{}", peak_bytes());
    }
}
