//! Kernel files to machine code, by NVRTC, which needs no GPU.

use super::cache;
use super::probe;
use super::queue::device_error;
use crate::backend::BackendError;
use crate::backend::cuda::driver::Precision;
use crate::backend::cuda::sources::{self, Unit};
use cudarc::nvrtc::sys::{self, nvrtcProgram, nvrtcResult};
use std::ffi::{CStr, CString, c_char, c_int};

/// What a unit is compiled for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// As compilers name it: "sm_90a".
    pub arch: String,
    /// The type of activations and weights.
    pub precision: Precision,
}

impl Target {
    /// The compute capability in `arch`, 10 major + minor.
    pub fn capability(arch: &str) -> Option<u32> {
        let digits = arch.strip_prefix("sm_")?;
        digits.strip_suffix('a').unwrap_or(digits).parse().ok().filter(|&n| (80..1000).contains(&n))
    }

    fn options(&self, unit: Unit) -> Vec<String> {
        let mut options = vec!["--std=c++17".to_owned(), format!("--gpu-architecture={}", self.arch)];
        match self.precision {
            // Division, roots and exponentials by the special function unit: within a few units in the last place of f32, which
            // is far below bf16's rounding.
            Precision::Bf16 => options.push("--use_fast_math".into()),
            Precision::F32 => options.push("-DTINYLLM_F32".into()),
        }
        if unit.size != 0 {
            options.push(format!("-DTINYLLM_SIZE={}", unit.size));
        }
        options
    }

    /// A name for the code of a unit as this program has it: of `compiler` where it says, else of any.
    pub(super) fn stem(&self, unit: Unit, compiler: Option<Version>) -> String {
        let mut parts = vec![sources::text(unit.file).as_bytes()];
        parts.extend(sources::HEADERS.iter().flat_map(|(name, text)| [name.as_bytes(), text.as_bytes()]));
        let options = self.options(unit).join(" ");
        let compiler = compiler.map_or(String::new(), |(major, minor)| format!("nvrtc {major}.{minor}"));
        parts.extend([options.as_bytes(), compiler.as_bytes()]);
        let precision = match self.precision {
            Precision::Bf16 => "bf16",
            Precision::F32 => "f32",
        };
        format!("{unit}-{precision}-{}-{}", self.arch, cache::hash(&parts))
    }
}

/// NVRTC's version.
pub(super) type Version = (i32, i32);

/// NVRTC's version, where it is here.
pub(super) fn nvrtc() -> Option<Version> {
    if !probe::nvrtc_is_there() {
        return None;
    }
    let (mut major, mut minor) = (0, 0);
    // SAFETY: the library is there; writes two numbers.
    unsafe { sys::nvrtcVersion(&raw mut major, &raw mut minor) };
    Some((major, minor))
}

/// What to do where NVRTC is not to be found.
#[must_use]
pub fn how_to_get_nvrtc() -> String {
    "there is no libnvrtc, which compiles the kernels: 'pip install nvidia-cuda-nvrtc' (or NVIDIA's CUDA toolkit), and put the folder of libnvrtc.so.13 into LD_LIBRARY_PATH; or name a folder of ready kernels, made elsewhere by 'tinyllm-train kernels', in TINYLLM_CUBINS".into()
}

/// The name of the code that suits a device of this compute capability best, among those that the compiler at hand knows. Code
/// runs on later devices of the same major version; what ends in `a` has all of its device's instructions, and runs there alone.
pub(super) fn arch_for(capability: u32) -> Result<String, BackendError> {
    let (mut count, version) = (0, nvrtc().ok_or_else(|| device_error(how_to_get_nvrtc()))?);
    // SAFETY: the library is there; it tells how many numbers it will write, and writes as many.
    let listed = unsafe {
        sys::nvrtcGetNumSupportedArchs(&raw mut count);
        let mut listed = vec![0 as c_int; count.max(0) as usize];
        sys::nvrtcGetSupportedArchs(listed.as_mut_ptr());
        listed
    };
    best_arch(capability, &listed).ok_or_else(|| {
        device_error(format!(
            "NVRTC {}.{} makes no code for a GPU of compute capability {}.{}: install a newer one",
            version.0,
            version.1,
            capability / 10,
            capability % 10
        ))
    })
}

fn best_arch(capability: u32, listed: &[c_int]) -> Option<String> {
    let same = listed.iter().map(|&n| n as u32).filter(|n| n / 10 == capability / 10 && *n <= capability);
    let best = same.max()?;
    Some(if best == capability && best >= 90 { format!("sm_{best}a") } else { format!("sm_{best}") })
}

/// The names of code that would run on a device of this compute capability, best first.
pub(super) fn runnable_archs(capability: u32) -> Vec<String> {
    let plain = (capability / 10 * 10..=capability).rev().map(|n| format!("sm_{n}"));
    (capability >= 90).then(|| format!("sm_{capability}a")).into_iter().chain(plain).collect()
}

/// A compiled unit.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The machine code.
    pub cubin: Vec<u8>,
    /// What the compiler said.
    pub log: String,
}

/// Destroys the program at the end of its scope.
struct Program(nvrtcProgram);

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: the program was made and is not used again.
        unsafe { sys::nvrtcDestroyProgram(&raw mut self.0) };
    }
}

impl Program {
    fn log(&self) -> String {
        let mut bytes = 0;
        // SAFETY: the library tells the log's length and writes that many bytes.
        unsafe {
            sys::nvrtcGetProgramLogSize(self.0, &raw mut bytes);
            let mut log = vec![0u8; bytes.max(1)];
            sys::nvrtcGetProgramLog(self.0, log.as_mut_ptr().cast());
            String::from_utf8_lossy(&log).trim_end_matches('\0').trim_end().to_owned()
        }
    }
}

/// Compiles a unit; `verbose`: the log tells the registers of each kernel.
pub fn compile(unit: Unit, target: &Target, verbose: bool) -> Result<Compiled, BackendError> {
    if nvrtc().is_none() {
        return Err(device_error(how_to_get_nvrtc()));
    }
    let wrong = |result: nvrtcResult, log: &str| {
        // SAFETY: the library answers with a string of its own.
        let told = unsafe { CStr::from_ptr(sys::nvrtcGetErrorString(result)) }.to_string_lossy().into_owned();
        let log = if log.is_empty() { String::new() } else { format!("\n{log}") };
        device_error(format!("kernels/{}.cu does not compile for {}: {told}{log}", unit.file, target.arch))
    };
    let text = |s: &str| CString::new(s).expect("sources hold no zero bytes");
    let (source, name) = (text(sources::text(unit.file)), text(&format!("{}.cu", unit.file)));
    let headers: Vec<(CString, CString)> = sources::HEADERS.iter().map(|(name, body)| (text(name), text(body))).collect();
    let names: Vec<*const c_char> = headers.iter().map(|(name, _)| name.as_ptr()).collect();
    let bodies: Vec<*const c_char> = headers.iter().map(|(_, body)| body.as_ptr()).collect();
    let mut program = Program(std::ptr::null_mut());
    // SAFETY: all strings live until the end of this function, as do the arrays of them.
    let made = unsafe {
        let count = headers.len() as c_int;
        sys::nvrtcCreateProgram(&raw mut program.0, source.as_ptr(), name.as_ptr(), count, bodies.as_ptr(), names.as_ptr())
    };
    if made != nvrtcResult::NVRTC_SUCCESS {
        return Err(wrong(made, ""));
    }
    let mut options = target.options(unit);
    if verbose {
        options.push("--ptxas-options=-v".into());
    }
    let options: Vec<CString> = options.iter().map(|o| text(o)).collect();
    let options: Vec<*const c_char> = options.iter().map(|o| o.as_ptr()).collect();
    // SAFETY: the program was made; the options live.
    let done = unsafe { sys::nvrtcCompileProgram(program.0, options.len() as c_int, options.as_ptr()) };
    let log = program.log();
    if done != nvrtcResult::NVRTC_SUCCESS {
        return Err(wrong(done, &log));
    }
    let mut bytes = 0;
    // SAFETY: the library tells the code's length and writes that many bytes.
    let cubin = unsafe {
        sys::nvrtcGetCUBINSize(program.0, &raw mut bytes);
        let mut cubin = vec![0u8; bytes];
        match sys::nvrtcGetCUBIN(program.0, cubin.as_mut_ptr().cast()) {
            nvrtcResult::NVRTC_SUCCESS => cubin,
            failed => return Err(wrong(failed, &log)),
        }
    };
    Ok(Compiled { cubin, log })
}

/// What a kernel takes of a multiprocessor, as the assembler says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// The kernel.
    pub kernel: String,
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of registers stored to memory for want of room, and loaded from there.
    pub spilled: u32,
    /// Bytes of stack of a thread.
    pub stack: u32,
    /// Bytes of shared memory known at compile time.
    pub shared: u32,
}

/// Reads a verbose log of [`compile`]:
///
/// ```text
/// ptxas info    : Compiling entry function 'axpy' for 'sm_90a'
/// ptxas info    : Function properties for axpy
///     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
/// ptxas info    : Used 22 registers, used 0 barriers, 28 bytes cmem[0]
/// ```
#[must_use]
pub fn usages(log: &str) -> Vec<Usage> {
    // The number before a word.
    let before = |line: &str, word: &str| {
        let head = line[..line.find(word)?].trim_end();
        head.rsplit(|c: char| !c.is_ascii_digit()).next()?.parse::<u32>().ok()
    };
    let mut found: Vec<Usage> = vec![];
    for line in log.lines() {
        if let Some(rest) = line.split("Compiling entry function '").nth(1) {
            found.push(Usage { kernel: rest.split('\'').next().unwrap_or_default().into(), ..Usage::default() });
        } else if let Some(usage) = found.last_mut() {
            if let Some(stack) = before(line, "bytes stack frame") {
                usage.stack += stack;
                usage.spilled += before(line, "bytes spill stores").unwrap_or(0) + before(line, "bytes spill loads").unwrap_or(0);
            }
            if let Some(registers) = before(line, "registers") {
                usage.registers = registers;
                usage.shared = before(line, "bytes smem").unwrap_or(0);
            }
        }
    }
    found
}

/// The name under which `tinyllm-train kernels` leaves a unit, and a program without NVRTC looks for it; where it lies.
pub fn keep(folder: &std::path::Path, unit: Unit, target: &Target, cubin: &[u8]) -> Result<std::path::PathBuf, crate::fsio::IoError> {
    cache::store(folder, &target.stem(unit, None), cubin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_suits_its_device() {
        let listed = [75, 80, 86, 87, 89, 90, 100, 103, 120];
        let best = |capability| best_arch(capability, &listed);
        for (capability, arch) in
            [(80, "sm_80"), (86, "sm_86"), (88, "sm_87"), (89, "sm_89"), (90, "sm_90a"), (103, "sm_103a"), (121, "sm_120")]
        {
            assert_eq!(best(capability).unwrap(), arch);
            assert!(runnable_archs(capability).iter().any(|a| a == arch), "{arch}");
        }
        assert_eq!(best(110), None);
        assert_eq!(Target::capability("sm_90a"), Some(90));
        assert_eq!(Target::capability("90"), None);
    }

    #[test]
    fn a_stem_is_of_all_that_goes_in() {
        let target = |arch: &str, precision| Target { arch: arch.into(), precision };
        let (unit, sized) = (Unit { file: "elements", size: 0 }, Unit { file: "elements", size: 64 });
        let hopper = target("sm_90a", Precision::Bf16);
        let mut stems = vec![
            hopper.stem(unit, None),
            hopper.stem(unit, Some((13, 0))),
            hopper.stem(unit, Some((13, 1))),
            hopper.stem(sized, None),
            target("sm_90a", Precision::F32).stem(unit, None),
            target("sm_80", Precision::Bf16).stem(unit, None),
        ];
        assert!(stems[0].starts_with("elements-bf16-sm_90a-"), "{}", stems[0]);
        stems.sort();
        stems.dedup();
        assert_eq!(stems.len(), 6);
    }

    #[test]
    fn the_assembler_is_understood() {
        let log = "ptxas info    : 0 bytes gmem\n\
            ptxas info    : Compiling entry function 'axpy' for 'sm_90a'\n\
            ptxas info    : Function properties for axpy\n    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n\
            ptxas info    : Used 22 registers, used 0 barriers\n\
            ptxas info    : Compiling entry function 'big' for 'sm_90a'\n\
            ptxas info    : Function properties for big\n    16 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads\n\
            ptxas info    : Used 255 registers, used 1 barriers, 128 bytes smem, 16 bytes cumulative stack size";
        let big = Usage { kernel: "big".into(), registers: 255, spilled: 20, stack: 16, shared: 128 };
        assert_eq!(usages(log), [Usage { kernel: "axpy".into(), registers: 22, ..Usage::default() }, big]);
    }
}
