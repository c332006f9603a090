//! The shim's first instruction: a `delete` action with nothing to do is answered here, everything else goes on to the C
//! library and `main`, as in any program.
//!
//! containerd executes `delete` after each task, where nothing is left but in rare cases. A static C library begins with
//! some forty questions to the processor (CPUID), which a virtual machine answers in microseconds each, and Rust's
//! runtime with a look at the map of its memory: 0.5 ms of the processor, where the answer takes 0.1.
//!
//! Nothing of the C library works yet, not even memcpy(3), whose address is filled in later. So nothing here may be
//! compared, copied or cleared in bulk, and nothing may panic. Whatever is not certain is left to `main`, which decides it
//! anew: this file must be as strict as `delete` of the shim, and need not be more.

#![no_std]
// Loops stay loops.
#![no_builtins]

use core::mem::MaybeUninit;
use syscalls::Sysno;
use syscalls::raw::{syscall1, syscall2, syscall3};

/// A text of the kernel's or of this program's: it ends with a zero.
type Text = *const u8;

/// The folder's entries that say that a container owns something: its record, one that is being written, those of a pod.
const RECORDS: [Text; 2] = [c"wasm".as_ptr().cast(), c".wasm".as_ptr().cast()];
/// The exit code of a container whose shim was killed, as `main` tells it.
const KILLED: u64 = 137;

// The kernel's words for the program are on the stack, and have to be there for `_start` in the end.
#[cfg(target_arch = "x86_64")]
core::arch::global_asm!(
    ".globl shim_entry",
    "shim_entry:",
    "xor ebp, ebp",
    "lea rdi, [rsp]",
    "push rdx",
    "sub rsp, 8",
    "call {first}",
    "add rsp, 8",
    "pop rdx",
    "jmp _start",
    first = sym first,
);
#[cfg(target_arch = "aarch64")]
core::arch::global_asm!(
    ".globl shim_entry",
    "shim_entry:",
    "mov x29, xzr",
    "mov x30, xzr",
    "mov x19, x0",
    "mov x0, sp",
    "bl {first}",
    "mov x0, x19",
    "b _start",
    first = sym first,
);

/// Answers and ends the process, or returns.
///
/// # Safety
///
/// `stack` is what the kernel hands to a program: the number of words, then the words.
unsafe extern "C" fn first(stack: *const usize) {
    // SAFETY: as the caller says.
    unsafe {
        let (count, words) = (*stack, stack.add(1).cast::<Text>());
        let Some(bundle) = bundle_to_delete(count, words) else { return };
        if has_nothing_left(bundle) {
            answer();
        }
    }
}

/// The bundle, of a command line that ends with `delete`. containerd always names it.
unsafe fn bundle_to_delete(count: usize, words: *const Text) -> Option<Text> {
    // SAFETY: there are as many words, each a text.
    unsafe {
        if count < 4 || !is(*words.add(count - 1), c"delete".as_ptr().cast()) {
            return None;
        }
        let mut index = 1;
        while index < count - 2 {
            if is(*words.add(index), c"-bundle".as_ptr().cast()) {
                return Some(*words.add(index + 1));
            }
            index += 1;
        }
        None
    }
}

/// Whether the bundle has no record of anything, and the socket is gone that its address names.
unsafe fn has_nothing_left(bundle: Text) -> bool {
    let flags = (libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC) as usize;
    // SAFETY: the kernel checks its arguments, and these are the process's own.
    unsafe {
        let Some(folder) = given(syscall3(Sysno::openat as usize, libc::AT_FDCWD as usize, bundle as usize, flags))
        else {
            return false;
        };
        let nothing = has_no_record(folder) && socket_is_gone(folder);
        syscall1(Sysno::close as usize, folder);
        nothing
    }
}

unsafe fn has_no_record(folder: usize) -> bool {
    /// Places in `struct linux_dirent64` (getdents(2)).
    const LENGTH: usize = 16;
    const NAME: usize = 19;
    let mut entries = MaybeUninit::<[u64; 256]>::uninit();
    let start = entries.as_mut_ptr().cast::<u8>();
    loop {
        // SAFETY: the kernel writes no further than the size it is given, and whole entries, which say how long they are.
        unsafe {
            let size = size_of_val(&entries);
            let Some(end) = given(syscall3(Sysno::getdents64 as usize, folder, start as usize, size)) else {
                return false;
            };
            if end == 0 {
                return true;
            }
            let mut at = 0;
            while at < end {
                let name = start.add(at + NAME);
                if begins(name, RECORDS[0]) || begins(name, RECORDS[1]) {
                    return false;
                }
                at += usize::from(start.add(at + LENGTH).cast::<u16>().read_unaligned());
            }
        }
    }
}

unsafe fn socket_is_gone(folder: usize) -> bool {
    /// More than any socket's address has.
    const LONGEST: usize = 255;
    let file: Text = c"address".as_ptr().cast();
    let absolute: Text = c"unix:///".as_ptr().cast();
    let mut text = MaybeUninit::<[u8; LONGEST + 1]>::uninit();
    let start = text.as_mut_ptr().cast::<u8>();
    let flags = (libc::O_RDONLY | libc::O_CLOEXEC) as usize;
    // SAFETY: the kernel writes no more than the size it is given, and there is room for the zero after it.
    unsafe {
        let Some(opened) = given(syscall3(Sysno::openat as usize, folder, file as usize, flags)) else { return false };
        let read = given(syscall3(Sysno::read as usize, opened, start as usize, LONGEST));
        syscall1(Sysno::close as usize, opened);
        let Some(length) = read.filter(|length| *length < LONGEST) else { return false };
        start.add(length).write(0);
        if !begins(start, absolute) {
            return false;
        }
        // Its last byte is where the path begins.
        let path = start.add(c"unix://".count_bytes()) as usize;
        let found = syscall3(Sysno::faccessat as usize, libc::AT_FDCWD as usize, path, libc::F_OK as usize);
        found as isize == -(libc::ENOENT as isize)
    }
}

/// Tells containerd that the container is dead, as `main` does, and ends the process.
unsafe fn answer() {
    let mut now = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: the kernel fills it in; what is written was pushed.
    unsafe {
        if given(syscall2(Sysno::clock_gettime as usize, libc::CLOCK_REALTIME as usize, now.as_mut_ptr() as usize))
            .is_none()
        {
            return;
        }
        let now = now.assume_init();
        // The fields of containerd's DeleteResponse (api/runtime/task): 2, the exit status, and 3, a protobuf timestamp.
        let mut time = Message::new();
        time.field(1, now.tv_sec as u64);
        time.field(2, now.tv_nsec as u64);
        let mut response = Message::new();
        response.field(2, KILLED);
        response.message(3, &time);
        let (start, length) = (response.start() as usize, response.length);
        let written = syscall3(Sysno::write as usize, libc::STDOUT_FILENO as usize, start, length);
        syscall1(Sysno::exit_group as usize, usize::from(written != length));
    }
}

/// A message of protocol buffers of at most 40 bytes.
struct Message {
    bytes: MaybeUninit<[u8; Message::SIZE]>,
    length: usize,
}

impl Message {
    const SIZE: usize = 40;

    fn new() -> Message {
        Message { bytes: MaybeUninit::uninit(), length: 0 }
    }

    fn start(&self) -> Text {
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

/// The result of a system call that did not fail.
fn given(result: usize) -> Option<usize> {
    /// Results above are errors, negated.
    const LARGEST: usize = usize::MAX - 4095;
    (result < LARGEST).then_some(result)
}

/// Whether two texts are equal.
unsafe fn is(text: Text, other: Text) -> bool {
    // SAFETY: the first does not end before the second, which it begins with.
    unsafe {
        let mut length = 0;
        while *other.add(length) != 0 {
            length += 1;
        }
        begins(text, other) && *text.add(length) == 0
    }
}

/// Whether a text begins with another.
unsafe fn begins(text: Text, with: Text) -> bool {
    let mut index = 0;
    // SAFETY: it stops where the first ends, since that is not what the second has there.
    unsafe {
        while *with.add(index) != 0 {
            if *text.add(index) != *with.add(index) {
                return false;
            }
            index += 1;
        }
    }
    true
}
