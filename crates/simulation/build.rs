//! The program's own `getrandom` must be found by those that look it up at run time.

fn main() {
    println!("cargo::rustc-link-arg-bins=-rdynamic");
}
