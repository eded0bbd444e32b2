//! A [`Driver`] that runs the kernels of `kernels/` on this machine's processor, compiled by g++ against `shim.h`.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::sync::{Mutex, OnceLock};
use tinyllm::backend::BackendError;
use tinyllm::backend::cuda::Cuda;
use tinyllm::backend::cuda::driver::{
    Arg, DeviceInfo, Driver, Epilogue, Kernel, Mark, Matrix, NULL, Precision, Product, Ptr, Shape, TensorMap, Ticket, Unsupported,
};

/// Which way a test wants the stand-in to be.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub precision: Precision,
    /// What it passes for: 80 or 90.
    pub arch: u32,
    /// The order in which a block's threads run: 0 up, 1 down, 2 mixed.
    pub order: c_int,
    /// Whether products refuse every epilogue, as a library that lacks them would.
    pub plain_products: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { precision: Precision::Bf16, arch: 80, order: 0, plain_products: false }
    }
}

/// Whether there is a g++ to compile the kernels with; if not, says on standard error that the test is skipped.
pub fn compiler_is_there() -> bool {
    static COMPILER: OnceLock<bool> = OnceLock::new();
    let found = *COMPILER.get_or_init(|| Command::new("g++").arg("--version").output().is_ok_and(|o| o.status.success()));
    if !found {
        eprintln!("skipped: there is no g++ here to compile the CUDA kernels for the processor");
    }
    found
}

/// A backend on the stand-in; `None`, said on standard error, where there is no g++.
pub fn cuda(options: Options) -> Option<Cuda> {
    if !compiler_is_there() {
        return None;
    }
    let info = DeviceInfo { name: "shim".into(), arch: options.arch, multiprocessors: 4, shared: 227 << 10, memory: 1 << 40, l2: 50 << 20 };
    Some(Cuda::new(Rc::new(Shim { options, info, memory: RefCell::default(), allocated: Cell::default(), late: RefCell::default() })))
}

struct Shim {
    options: Options,
    info: DeviceInfo,
    memory: RefCell<HashMap<Ptr, (std::alloc::Layout, Ptr)>>,
    allocated: Cell<(usize, usize)>,
    late: RefCell<Vec<Vec<f32>>>,
}

/// Launchers by file, size and precision.
type Launchers = HashMap<(String, u32, Precision), Launcher>;
type Launcher = unsafe extern "C" fn(*const c_char, *const c_uint, c_uint, c_int, *mut *mut c_void) -> c_int;

/// The launcher of a kernel file, compiled once a process; kernels share state, so that one runs at a time.
fn launcher(file: &str, size: u32, precision: Precision) -> Launcher {
    static LOADED: Mutex<Option<Launchers>> = Mutex::new(None);
    let mut loaded = LOADED.lock().unwrap_or_else(|e| e.into_inner());
    *loaded.get_or_insert_default().entry((file.into(), size, precision)).or_insert_with(|| compile(file, size, precision))
}

/// The `__global__` functions of a kernel file.
fn kernels_of(text: &str) -> Vec<String> {
    let word =
        |s: &str| s.chars().rev().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>().chars().rev().collect::<String>();
    let mut names = vec![];
    for (at, _) in text.match_indices("__global__") {
        // The name stands before the first parenthesis that is not that of __launch_bounds__ and the like.
        let mut rest = &text[at..];
        while let Some(open) = rest.find('(') {
            let name = word(rest[..open].trim_end());
            if name.starts_with("__") {
                rest = &rest[open + rest[open..].find(')').unwrap() + 1..];
            } else {
                names.push(name);
                break;
            }
        }
    }
    names
}

fn compile(file: &str, size: u32, precision: Precision) -> Launcher {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let source = root.join("kernels").join(format!("{file}.cu"));
    let text = std::fs::read_to_string(&source).unwrap_or_else(|e| panic!("{}: {e}", source.display()));
    let dir: PathBuf = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("shim-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let stem = dir.join(format!("{file}-{size}-{precision:?}"));
    let mut wrapper = String::from("#include \"shim.h\"\n#include \"ptx.h\"\n#include \"hopper.h\"\n");
    wrapper += &format!("#include \"{}\"\n", source.display());
    wrapper += "extern \"C\" int shim_launch(const char* name, const unsigned* shape, unsigned shared, int order, void** arguments) {\n";
    for name in kernels_of(&text) {
        wrapper +=
            &format!("  if (strcmp(name, \"{name}\") == 0) return shim::launch({name}, \"{name}\", shape, shared, order, arguments), 0;\n");
    }
    wrapper += "  return 1;\n}\n";
    let (cpp, so) = (stem.with_extension("cpp"), stem.with_extension("so"));
    std::fs::write(&cpp, wrapper).unwrap();
    let mut command = Command::new("g++");
    command.args(["-std=c++17", "-O1", "-fPIC", "-shared", "-fno-strict-aliasing", "-ffp-contract=off", "-w", "-Wfatal-errors"]);
    command.arg("-I").arg(root.join("tests/shim")).arg("-I").arg(root.join("kernels"));
    if precision == Precision::F32 {
        command.arg("-DTINYLLM_F32");
    }
    command.arg(format!("-DTINYLLM_SIZE={size}")).arg("-o").arg(&so).arg(&cpp);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}: {}", source.display(), String::from_utf8_lossy(&output.stderr));
    load(&so)
}

unsafe extern "C" {
    fn dlopen(path: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
    fn dlerror() -> *const c_char;
}

fn load(so: &Path) -> Launcher {
    const NOW: c_int = 2;
    let path = CString::new(so.to_str().unwrap()).unwrap();
    // SAFETY: the library was just compiled from this repository's sources, and `shim_launch` has this signature.
    unsafe {
        let handle = dlopen(path.as_ptr(), NOW);
        assert!(!handle.is_null(), "{}", CStr::from_ptr(dlerror()).to_string_lossy());
        let symbol = dlsym(handle, c"shim_launch".as_ptr());
        assert!(!symbol.is_null());
        std::mem::transmute::<*mut c_void, Launcher>(symbol)
    }
}

/// One kernel at a time: the shim's fibers and shared memory are one for the process.
static RUNNING: Mutex<()> = Mutex::new(());

/// All below rests on this: pointers are places in memory that `allocate` gave out and `release` did not take back, aligned to more
/// than any element, and the backend keeps within its buffers (what lies behind them is guarded: see `release`).
impl Shim {
    fn number(&self, ptr: Ptr, at: usize, wide: bool) -> f32 {
        if wide || self.options.precision == Precision::F32 {
            // SAFETY: element `at` is within the buffer of f32 at `ptr`.
            unsafe { *(ptr as *const f32).add(at) }
        } else {
            // SAFETY: element `at` is within the buffer of bf16 at `ptr`.
            half::bf16::from_bits(unsafe { *(ptr as *const u16).add(at) }).to_f32()
        }
    }
    fn set(&self, ptr: Ptr, at: usize, wide: bool, x: f32) {
        if wide || self.options.precision == Precision::F32 {
            // SAFETY: element `at` is within the buffer of f32 at `ptr`, and nobody holds a reference into it.
            unsafe { *(ptr as *mut f32).add(at) = x }
        } else {
            // SAFETY: element `at` is within the buffer of bf16 at `ptr`, and nobody holds a reference into it.
            unsafe { *(ptr as *mut u16).add(at) = half::bf16::from_f32(x).to_bits() }
        }
    }
    /// A factor as plain rows of f32.
    fn factor(&self, of: &Matrix, rows: usize, columns: usize) -> Vec<f32> {
        let at = |i: usize, j: usize| if of.transposed { j * of.stride + i } else { i * of.stride + j };
        (0..rows * columns).map(|k| self.number(of.ptr, at(k / columns, k % columns), false)).collect()
    }
}

/// Bytes behind each allocation that must stay as they are.
const GUARD: usize = 256;

impl Driver for Shim {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }
    fn precision(&self) -> Precision {
        self.options.precision
    }
    fn allocate(&self, bytes: usize) -> Result<Ptr, BackendError> {
        let layout = std::alloc::Layout::from_size_align(bytes + GUARD, 1024).unwrap();
        // SAFETY: the layout is not empty.
        let ptr = unsafe { std::alloc::alloc(layout) };
        assert!(!ptr.is_null(), "no memory for {bytes} bytes");
        // NaN in every type: what nobody wrote shows.
        // SAFETY: so many bytes were just allocated.
        unsafe { std::ptr::write_bytes(ptr, 0xFF, bytes + GUARD) };
        self.memory.borrow_mut().insert(ptr as Ptr, (layout, bytes as Ptr));
        let (now, most) = self.allocated.get();
        self.allocated.set((now + bytes, most.max(now + bytes)));
        Ok(ptr as Ptr)
    }
    fn release(&self, ptr: Ptr) {
        let (layout, bytes) = self.memory.borrow_mut().remove(&ptr).expect("memory that was allocated");
        // SAFETY: `allocate` gave out and wrote `GUARD` bytes behind the buffer's own.
        let guard = unsafe { std::slice::from_raw_parts((ptr + bytes) as *const u8, GUARD) };
        if !std::thread::panicking() {
            assert!(guard.iter().all(|&b| b == 0xFF), "a kernel wrote behind the end of a buffer of {bytes} bytes");
        }
        // SAFETY: `ptr` was allocated with this layout and is no longer in `memory`, so that this happens once.
        unsafe { std::alloc::dealloc(ptr as *mut u8, layout) };
        let (now, most) = self.allocated.get();
        self.allocated.set((now - bytes as usize, most));
    }
    fn allocated(&self) -> (usize, usize) {
        self.allocated.get()
    }
    fn write(&self, dst: Ptr, src: &[u8]) -> Result<(), BackendError> {
        // SAFETY: `dst` has room for `src`, which is the caller's own memory and not the device's.
        unsafe { std::ptr::copy_nonoverlapping(src.as_ptr(), dst as *mut u8, src.len()) };
        Ok(())
    }
    fn read(&self, dst: &mut [u8], src: Ptr) -> Result<(), BackendError> {
        // SAFETY: `src` has as many bytes as `dst`, which is the caller's own memory and not the device's.
        unsafe { std::ptr::copy_nonoverlapping(src as *const u8, dst.as_mut_ptr(), dst.len()) };
        Ok(())
    }
    fn zero(&self, dst: Ptr, bytes: usize) {
        // SAFETY: the buffer at `dst` has so many bytes.
        unsafe { std::ptr::write_bytes(dst as *mut u8, 0, bytes) };
    }
    fn copy(&self, dst: Ptr, src: Ptr, bytes: usize) {
        // SAFETY: both have so many bytes, and are different buffers.
        unsafe { std::ptr::copy_nonoverlapping(src as *const u8, dst as *mut u8, bytes) };
    }
    fn launch(&self, kernel: Kernel, shape: Shape, args: &[Arg]) {
        let launch = launcher(kernel.file, kernel.size, self.options.precision);
        let name = CString::new(kernel.name).unwrap();
        let [g, b] = [shape.grid, shape.block];
        let shape_words = [g[0], g[1], g[2], b[0], b[1], b[2]];
        let mut addresses: Vec<*mut c_void> = args.iter().map(|a| a.address().cast_mut().cast()).collect();
        let _one = RUNNING.lock().unwrap_or_else(|e| e.into_inner());
        // SAFETY: `args` are those of the kernel's signature.
        let missing = unsafe { launch(name.as_ptr(), shape_words.as_ptr(), shape.shared, self.options.order, addresses.as_mut_ptr()) };
        assert_eq!(missing, 0, "kernels/{}.cu has no {}", kernel.file, kernel.name);
    }
    fn product(&self, p: &Product) -> Result<(), Unsupported> {
        if self.options.plain_products && p.epilogue != Epilogue::None {
            return Err(Unsupported);
        }
        let (a, b) = (self.factor(&p.a, p.m, p.k), self.factor(&p.b, p.k, p.n));
        for i in 0..p.m {
            let mut row = vec![0f32; p.n];
            for k in 0..p.k {
                let x = a[i * p.k + k];
                row.iter_mut().zip(&b[k * p.n..]).for_each(|(y, b)| *y += x * b);
            }
            for j in 0..p.n {
                let at = i * p.stride + j;
                let mut y = p.alpha * row[j];
                if p.beta != 0.0 {
                    y += p.beta * self.number(p.c, at, p.accumulate);
                }
                match p.epilogue {
                    Epilogue::Bias(bias) => y += self.number(bias, j, false),
                    Epilogue::BiasGelu { bias, pre } => {
                        if bias != NULL {
                            y += self.number(bias, j, false);
                        }
                        self.set(pre, at, false, y);
                        y = gelu(y);
                    }
                    Epilogue::GeluBackward { pre } => y *= gelu_slope(self.number(pre, at, false)),
                    Epilogue::LeftSums(_) | Epilogue::None => {}
                }
                self.set(p.y, at, p.accumulate, y);
            }
        }
        if let Epilogue::LeftSums(sums) = p.epilogue {
            for i in 0..p.m {
                self.set(sums, i, true, a[i * p.k..][..p.k].iter().sum());
            }
        }
        Ok(())
    }
    fn tensor_map(&self, ptr: Ptr, rows: usize, columns: usize, stride: usize, box_rows: u32, box_columns: u32) -> TensorMap {
        let mut map = TensorMap([0; 16]);
        map.0[..6].copy_from_slice(&[ptr, rows as u64, columns as u64, stride as u64, box_rows.into(), box_columns.into()]);
        map
    }
    fn region(&self, _key: u64, work: &mut dyn FnMut()) {
        work();
    }
    fn read_later(&self, src: Ptr, values: usize) -> Result<Ticket, BackendError> {
        let mut late = self.late.borrow_mut();
        late.push((0..values).map(|i| self.number(src, i, true)).collect());
        Ok(Ticket(late.len() as u64 - 1))
    }
    fn take(&self, ticket: Ticket) -> Result<Vec<f32>, BackendError> {
        Ok(std::mem::take(&mut self.late.borrow_mut()[ticket.0 as usize]))
    }
    fn mark(&self) -> Result<Mark, BackendError> {
        Ok(Mark(0))
    }
    fn between(&self, _from: &Mark, _to: &Mark) -> Result<f64, BackendError> {
        Ok(0.0)
    }
    fn sync(&self) -> Result<(), BackendError> {
        Ok(())
    }
}

fn gelu_inner(x: f32) -> f32 {
    0.797_884_6 * (x + 0.044_715 * x * x * x)
}
fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + gelu_inner(x).tanh())
}
fn gelu_slope(x: f32) -> f32 {
    let t = gelu_inner(x).tanh();
    0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * 0.797_884_6 * (1.0 + 3.0 * 0.044_715 * x * x)
}
