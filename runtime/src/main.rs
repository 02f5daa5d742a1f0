//! `nacelle`: runs programs in a sandbox whose kernel is an application.
fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let strace = args.iter().any(|a| a == "--strace");
    let at = args.iter().position(|a| a == "--").map_or(0, |i| i + 1);
    std::process::exit(sandbox::bring_up(strace, &args[at..]));
}
