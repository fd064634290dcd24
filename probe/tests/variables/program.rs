use std::hint::black_box;

#[derive(Clone, Copy, Debug)]
pub struct Point {
    x: i32,
    y: i32,
}
#[derive(Clone, Copy, Debug)]
pub struct Wide {
    a: u64,
    b: f64,
    c: u8,
}
#[derive(Clone, Copy, Debug)]
#[repr(i8)]
pub enum Level {
    Low = -1,
    High = 3,
}
pub static LIMIT: u32 = 12;

#[inline(never)]
fn scalars(a: i8, b: u16, c: i32, d: u64, e: f32, f: f64, g: bool, h: char) -> i64 {
    let sum = i64::from(a) + i64::from(b) + i64::from(c) + d as i64 + e as i64 + f as i64;
    let more = sum + i64::from(g) + i64::from(u32::from(h));
    black_box(more); // stop scalars
    more
}

#[inline(never)]
fn aggregates(p: Point, w: Wide, pair: (u8, u64), text: &str, list: &[u16], level: Level) -> u64 {
    let length = text.len() + list.len();
    let total = w.a + pair.1 + length as u64 + p.x as u64 + level as u64;
    black_box((total, p.y, w.b, w.c)); // stop aggregates
    total
}

#[inline(never)]
fn owned(name: String, numbers: Vec<u32>, boxed: Box<i64>) -> usize {
    let total = name.len() + numbers.len() + *boxed as usize;
    black_box(&name); // stop owned
    total
}

pub enum Shape {
    Dot,
    Circle(f32),
    Box { width: u16, height: u64 },
}

#[inline(never)]
fn variants(shape: &Shape, own: Shape, maybe: Option<u32>, niche: Option<&u8>, result: Result<Level, u16>, empty: ()) -> u64 {
    let area = match (shape, &own) {
        (Shape::Circle(radius), _) => *radius as u64,
        (_, Shape::Box { width, height }) => u64::from(*width) * height,
        _ => 0,
    };
    let total = area + u64::from(maybe.unwrap_or(0)) + u64::from(*niche.unwrap_or(&7));
    black_box((total, result.is_ok(), empty)); // stop variants
    total
}

#[inline(never)]
fn looped(n: u32) -> u32 {
    let mut total = 0;
    for i in 0..n {
        let square = i * i;
        total += black_box(square); // stop looped
    }
    total + LIMIT
}

fn main() {
    let n = std::env::args().count() as u32;
    let mut sum = scalars(-8, 65_000, -70_000, 1 << 40, 1.5, -2.25, true, 'é') as u64;
    let wide = Wide { a: 5, b: 6.5, c: 7 };
    sum += aggregates(Point { x: 3, y: -4 }, wide, (9, 10), "text", &[1, 2, 3], black_box(Level::High));
    sum += owned("owner".to_string(), vec![7, 8], Box::new(5)) as u64;
    sum += u64::from(looped(n + 2));
    let shapes = [Shape::Circle(2.5), Shape::Dot];
    sum += variants(&shapes[n as usize - 1], Shape::Box { width: 3, height: 4 }, Some(n), None, Ok(Level::Low), ());
    black_box(Level::Low);
    println!("{}", sum & 1);
}
