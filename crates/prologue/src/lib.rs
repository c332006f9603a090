//! Where the shim's program begins: a `delete` action with nothing to do is answered here, everything else goes on to the
//! C library and `main`, as in any program.
//!
//! containerd executes `delete` after each task, where nothing is left but in rare cases. A static C library begins with
//! some forty questions to the processor (CPUID), which a virtual machine answers in microseconds each, and Rust's
//! runtime with a look at the map of its memory: most of what such an answer would take.
//!
//! Nothing of the C library works yet, not even memcpy(3), whose address is filled in later. So nothing here may be
//! compared, copied or cleared in bulk, and nothing may panic. "Nothing left" is said only where `main` would say it, and
//! whatever is not certain is left to `main`, which decides it anew.

#![no_std]
// Loops stay loops. What the compiler makes of assignments it does not govern: keep values small.
#![no_builtins]

use core::ffi::CStr;
use core::mem::MaybeUninit;
use syscalls::Sysno;
use syscalls::raw::{syscall1, syscall2, syscall3};

/// The file in each bundle from which containerd 1.6 and 1.7 find the shim again.
pub const ADDRESS: &CStr = c"address";
/// How the address is written for containerd, before a path.
pub const SCHEME: &str = "unix://";
/// How the names in a bundle begin that say that a container owns something.
pub const RECORDS: [&str; 2] = ["wasm", ".wasm"];
/// The exit code of a container whose shim was killed: it was killed with it.
pub const KILLED: u32 = 137;

/// The start of a text of the kernel's or of this program's, which ends with a zero.
type Text = *const u8;

// A program begins with the kernel's words on the stack, which is aligned to 16 bytes, and in one register a function for
// its end (System V ABI for each processor, "Process Initialization"). `_start` has to find both as they were.
#[cfg(target_arch = "x86_64")]
core::arch::global_asm!(
    ".globl shim_prologue",
    ".type shim_prologue, %function",
    "shim_prologue:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    // With the function in rdx aligned again.
    "push rdx",
    "sub rsp, 8",
    "call {first}",
    "add rsp, 8",
    "pop rdx",
    "jmp _start",
    ".size shim_prologue, . - shim_prologue",
    first = sym first,
);
#[cfg(target_arch = "aarch64")]
core::arch::global_asm!(
    ".globl shim_prologue",
    ".type shim_prologue, %function",
    "shim_prologue:",
    "mov x29, xzr",
    // The function. Calls leave this register as it is.
    "mov x19, x0",
    "mov x0, sp",
    "bl {first}",
    "mov x0, x19",
    "b _start",
    ".size shim_prologue, . - shim_prologue",
    first = sym first,
);
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("a program of another processor begins in its own way: write it down here");

/// Answers and ends the process, or returns.
///
/// # Safety
///
/// `stack` is what the kernel hands to a program: the number of words, then the words, each a text.
unsafe extern "C" fn first(stack: *const usize) {
    // SAFETY: as the caller says.
    let bundle = unsafe { bundle_to_delete(*stack, stack.add(1).cast()) };
    // SAFETY: a word is a text.
    if bundle.is_some_and(|bundle| unsafe { has_nothing_left(bundle) }) {
        answer();
    }
}

/// The bundle, of a command line of the form in which containerd asks for `delete`.
///
/// # Safety
///
/// There are `count` words, each a text.
unsafe fn bundle_to_delete(count: usize, words: *const Text) -> Option<Text> {
    let (mut bundle, mut id, mut namespace) = (None, false, false);
    let mut index = 1;
    // SAFETY: the index stays below the count, also that of a flag's value: the last word is none.
    unsafe {
        if count < 2 || !is(*words.add(count - 1), "delete") {
            return None;
        }
        while index < count - 1 {
            let flag = *words.add(index);
            if is(flag, "-debug") {
                index += 1;
                continue;
            }
            if index + 1 == count - 1 {
                return None;
            }
            let value = *words.add(index + 1);
            if is(flag, "-bundle") {
                bundle = Some(value);
            } else if is(flag, "-id") {
                id = *value != 0;
            } else if is(flag, "-namespace") {
                namespace = *value != 0;
            } else if !is(flag, "-address") && !is(flag, "-publish-binary") {
                return None;
            }
            index += 2;
        }
    }
    bundle.filter(|_| id && namespace)
}

/// Whether the bundle has no record of anything, and the socket is gone that its address names.
///
/// # Safety
///
/// `bundle` is a text.
unsafe fn has_nothing_left(bundle: Text) -> bool {
    let flags = (libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC) as usize;
    // SAFETY: the kernel reads a text.
    let folder = unsafe { syscall3(Sysno::openat as usize, libc::AT_FDCWD as usize, bundle as usize, flags) };
    let Some(folder) = given(folder) else { return false };
    let nothing = has_no_record(folder) && socket_is_gone(folder);
    close(folder);
    nothing
}

fn has_no_record(folder: usize) -> bool {
    /// Places in `struct linux_dirent64` (getdents(2)).
    const LENGTH: usize = 16;
    const NAME: usize = 19;
    let mut entries = MaybeUninit::<[u64; 256]>::uninit();
    let (start, size) = (entries.as_mut_ptr().cast::<u8>(), size_of_val(&entries));
    loop {
        // SAFETY: the kernel writes no further than the size.
        let end = unsafe { syscall3(Sysno::getdents64 as usize, folder, start as usize, size) };
        let Some(end) = given(end) else { return false };
        if end == 0 {
            return true;
        }
        let mut at = 0;
        while at < end {
            // SAFETY: up to the end there are whole entries, which say how long they are; names end with a zero.
            unsafe {
                let name = start.add(at + NAME);
                if begins(name, RECORDS[0]) || begins(name, RECORDS[1]) {
                    return false;
                }
                at += usize::from(start.add(at + LENGTH).cast::<u16>().read_unaligned());
            }
        }
    }
}

fn socket_is_gone(folder: usize) -> bool {
    /// More than any socket's address has.
    const LONGEST: usize = 255;
    let mut text = MaybeUninit::<[u8; LONGEST + 1]>::uninit();
    let start = text.as_mut_ptr().cast::<u8>();
    let flags = (libc::O_RDONLY | libc::O_CLOEXEC) as usize;
    // SAFETY: the kernel reads a text.
    let file = unsafe { syscall3(Sysno::openat as usize, folder, ADDRESS.as_ptr() as usize, flags) };
    let Some(file) = given(file) else { return false };
    // SAFETY: the kernel writes no further than the size.
    let length = unsafe { syscall3(Sysno::read as usize, file, start as usize, LONGEST) };
    close(file);
    let Some(length) = given(length).filter(|length| *length < LONGEST) else { return false };
    // SAFETY: behind what was read there is room for a zero, which makes it a text.
    unsafe {
        start.add(length).write(0);
        let path = start.add(SCHEME.len());
        if !begins(start, SCHEME) || !begins(path, "/") {
            return false;
        }
        let found = syscall3(Sysno::faccessat as usize, libc::AT_FDCWD as usize, path as usize, libc::F_OK as usize);
        found as isize == -(libc::ENOENT as isize)
    }
}

/// Tells containerd that the container is dead, as `main` does, and ends the process. Returns if it cannot be told.
fn answer() {
    let mut now = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: the kernel fills it in.
    let now = unsafe {
        let told = syscall2(Sysno::clock_gettime as usize, libc::CLOCK_REALTIME as usize, now.as_mut_ptr() as usize);
        if given(told).is_none() {
            return;
        }
        now.assume_init()
    };
    // The fields of containerd's DeleteResponse (api/runtime/task): 2, the exit status, and 3, a protobuf timestamp.
    let mut time = Message::new();
    time.field(1, now.tv_sec as u64);
    time.field(2, now.tv_nsec as u64);
    let mut response = Message::new();
    response.field(2, KILLED.into());
    response.message(3, &time);
    let length = response.length;
    // SAFETY: as many bytes were pushed.
    let written =
        unsafe { syscall3(Sysno::write as usize, libc::STDOUT_FILENO as usize, response.start() as usize, length) };
    let Some(written) = given(written) else { return };
    // SAFETY: it ends the process.
    unsafe { syscall1(Sysno::exit_group as usize, usize::from(written != length)) };
}

/// A message of protocol buffers. None here is longer than 24 bytes: a number has 10 at most.
struct Message {
    bytes: MaybeUninit<[u8; Message::SIZE]>,
    length: usize,
}

impl Message {
    const SIZE: usize = 40;

    fn new() -> Message {
        Message { bytes: MaybeUninit::uninit(), length: 0 }
    }

    fn start(&self) -> *const u8 {
        self.bytes.as_ptr().cast()
    }

    /// A field with a number.
    fn field(&mut self, field: u8, value: u64) {
        self.push(field << 3);
        let mut rest = value;
        while rest > 0x7f {
            self.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        self.push(rest as u8);
    }

    /// A field with a message.
    fn message(&mut self, field: u8, message: &Message) {
        self.push(field << 3 | 2);
        self.push(message.length as u8);
        let mut index = 0;
        while index < message.length {
            // SAFETY: as many bytes were pushed.
            self.push(unsafe { message.start().add(index).read() });
            index += 1;
        }
    }

    fn push(&mut self, byte: u8) {
        if self.length < Message::SIZE {
            // SAFETY: there is room.
            unsafe { self.bytes.as_mut_ptr().cast::<u8>().add(self.length).write(byte) };
            self.length += 1;
        }
    }
}

fn close(file: usize) {
    // SAFETY: it was opened here, and nobody uses it after.
    unsafe { syscall1(Sysno::close as usize, file) };
}

/// The result of a system call that did not fail.
fn given(result: usize) -> Option<usize> {
    /// The last 4095 numbers are errors, negated.
    const FIRST_ERROR: usize = usize::MAX - 4094;
    (result < FIRST_ERROR).then_some(result)
}

/// Whether a text says this.
///
/// # Safety
///
/// `text` is a text.
unsafe fn is(text: Text, this: &str) -> bool {
    // SAFETY: it has as many bytes, and does not end before there is a zero.
    unsafe { begins(text, this) && *text.add(this.len()) == 0 }
}

/// Whether a text begins with this, which has no zero.
///
/// # Safety
///
/// `text` is a text.
unsafe fn begins(text: Text, this: &str) -> bool {
    let mut index = 0;
    while index < this.len() {
        // SAFETY: it stops where the text ends, since that is not what the other has there.
        if unsafe { *text.add(index) != *this.as_ptr().add(index) } {
            return false;
        }
        index += 1;
    }
    true
}
