//! `berth doctor`: what this host can do, printed.

use super::{localized, width};

#[derive(Debug, clap::Args)]
pub(crate) struct Doctor {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Prints what was found; the exit code is 1 if something that is needed is missing.
pub(crate) fn run(doctor: &Doctor) -> Result<u8, String> {
    let all = crate::doctor::examine();
    let missing = all.iter().any(|f| f.state == "missing");
    if doctor.json {
        println!("{}", serde_json::to_string_pretty(&all).map_err(|e| e.to_string())?);
    } else {
        let padded = |text: &str, columns: usize| {
            let text = localized(text);
            let pad = columns.saturating_sub(width(&text));
            text + &" ".repeat(pad)
        };
        for f in &all {
            println!("{} {} {}", padded(&f.state, 8), padded(&f.what, 22), localized(&f.found));
            if !f.advice.is_empty() {
                println!("{:<8} {:<22} -> {}", "", "", localized(&f.advice));
            }
        }
    }
    Ok(u8::from(missing))
}
