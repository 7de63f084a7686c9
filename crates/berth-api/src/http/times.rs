//! Local times of dialects.

/// Whether the tz database knows a zone by this name (`Asia/Shanghai`).
pub fn is_time_zone(name: &str) -> bool {
    jiff::tz::TimeZone::get(name).is_ok()
}

/// `yyyy-MM-dd HH:mm:ss` in a zone of the tz database, of nanoseconds since 1970.
pub(crate) fn local_time(at: i64, zone: &str) -> String {
    let Ok(time) = jiff::Timestamp::from_nanosecond(at.into()) else { return String::new() };
    let zone = jiff::tz::TimeZone::get(zone).unwrap_or(jiff::tz::TimeZone::UTC);
    time.to_zoned(zone).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// The same read: nanoseconds since 1970.
pub(crate) fn local_time_of(text: &str, zone: &str) -> Option<i64> {
    let time = jiff::civil::DateTime::strptime("%Y-%m-%d %H:%M:%S", text.trim()).ok()?;
    let zone = jiff::tz::TimeZone::get(zone).unwrap_or(jiff::tz::TimeZone::UTC);
    i64::try_from(time.to_zoned(zone).ok()?.timestamp().as_nanosecond()).ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn local_times_are_in_their_zone() {
        assert_eq!(super::local_time(1_453_962_155_999_999_999, "Asia/Shanghai"), "2016-01-28 14:22:35");
        assert_eq!(super::local_time(1_453_962_155_000_000_000, "Europe/Berlin"), "2016-01-28 07:22:35");
    }
}
