// A stand-in for libnvrtc: "compiles" CUDA C++ with g++ against shim.h. Its cubin is a shared library that cuda.cpp loads.
//
// TINYLLM_SHIM names the folder of shim.h. Only what the program uses is here.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <unistd.h>
#include <vector>

namespace fs = std::filesystem;

struct Program {
    std::string source, log, cubin;
    std::vector<std::pair<std::string, std::string>> headers;  // name, text
};
enum { SUCCESS = 0, INVALID_INPUT = 3, COMPILATION = 6 };

// The `__global__` functions of a text: the name before the first parenthesis that is not an attribute's.
static std::vector<std::string> kernels_of(const std::string& text) {
    std::vector<std::string> names;
    for (size_t at = text.find("__global__"); at != std::string::npos; at = text.find("__global__", at + 1)) {
        size_t from = at;
        for (;;) {
            const size_t open = text.find('(', from);
            if (open == std::string::npos) break;
            size_t end = open;
            while (end > 0 && isspace(text[end - 1])) end--;
            size_t begin = end;
            while (begin > 0 && (isalnum(text[begin - 1]) || text[begin - 1] == '_')) begin--;
            const std::string name = text.substr(begin, end - begin);
            if (name.rfind("__", 0) == 0) { from = text.find(')', open) + 1; continue; }
            names.push_back(name);
            break;
        }
    }
    return names;
}

extern "C" {
int nvrtcVersion(int* major, int* minor) { *major = 13, *minor = 0; return SUCCESS; }
const char* nvrtcGetErrorString(int result) { return result == SUCCESS ? "NVRTC_SUCCESS" : result == COMPILATION ? "NVRTC_ERROR_COMPILATION" : "NVRTC_ERROR"; }
int nvrtcGetNumSupportedArchs(int* n) { *n = 3; return SUCCESS; }
int nvrtcGetSupportedArchs(int* archs) { archs[0] = 80, archs[1] = 89, archs[2] = 90; return SUCCESS; }
int nvrtcCreateProgram(Program** program, const char* source, const char*, int headers, const char* const* texts, const char* const* names) {
    *program = new Program{ source, "", "", {} };
    for (int i = 0; i < headers; i++) (*program)->headers.push_back({ names[i], texts[i] });
    return SUCCESS;
}
int nvrtcDestroyProgram(Program** program) { delete *program; *program = nullptr; return SUCCESS; }
int nvrtcCompileProgram(Program* p, int count, const char* const* options) {
    const char* shim = getenv("TINYLLM_SHIM");
    if (!shim) { p->log = "TINYLLM_SHIM is not set"; return INVALID_INPUT; }
    std::string defines;
    for (int i = 0; i < count; i++)
        if (strncmp(options[i], "-D", 2) == 0) defines += std::string(" '") + options[i] + "'";
    std::string folder = (fs::temp_directory_path() / "tinyllm-shim-XXXXXX").string();
    if (!mkdtemp(folder.data())) return INVALID_INPUT;
    const fs::path dir = folder;
    for (auto& [name, text] : p->headers) std::ofstream(dir / name) << text;
    std::ofstream(dir / "source.cu") << p->source;
    std::ofstream wrapper(dir / "wrapper.cpp");
    wrapper << "#include \"shim.h\"\n#include \"ptx.h\"\n#include \"hopper.h\"\n#include \"source.cu\"\n";
    // Each kernel: how to launch it, and the sizes of its arguments, so that a recording can keep them.
    wrapper << "template <class... A> unsigned sizes(void (*)(A...), unsigned* out) { unsigned n = 0; ((out[n++] = sizeof(A)), ...); return n; }\n"
               "extern \"C\" int shim_launch(const char* name, const unsigned* shape, unsigned shared, int order, void** arguments) {\n";
    const auto names = kernels_of(p->source);
    for (auto& name : names)
        wrapper << "  if (strcmp(name, \"" << name << "\") == 0) return shim::launch(" << name << ", \"" << name << "\", shape, shared, order, arguments), 0;\n";
    wrapper << "  return 1;\n}\nextern \"C\" int shim_arguments(const char* name, unsigned* out) {\n";
    for (auto& name : names) wrapper << "  if (strcmp(name, \"" << name << "\") == 0) return sizes(" << name << ", out);\n";
    wrapper << "  return -1;\n}\n";
    wrapper.close();
    const std::string so = (dir / "kernels.so").string(), log = (dir / "log").string();
    const std::string command = "g++ -std=c++17 -O1 -fPIC -shared -fno-strict-aliasing -ffp-contract=off -w -Wfatal-errors -I '" + std::string(shim) + "' -I '" +
                                dir.string() + "'" + defines + " -o '" + so + "' '" + (dir / "wrapper.cpp").string() + "' > '" + log + "' 2>&1";
    const int status = system(command.c_str());
    const auto read = [](const std::string& path) {
        std::ostringstream text;
        text << std::ifstream(path, std::ios::binary).rdbuf();
        return text.str();
    };
    p->log = read(log);
    if (status == 0) {
        const std::string library = read(so);
        const unsigned long long length = library.size();
        p->cubin = "SHIM" + std::string(reinterpret_cast<const char*>(&length), 8) + library;
    }
    fs::remove_all(dir);
    return status == 0 ? SUCCESS : COMPILATION;
}
int nvrtcGetProgramLogSize(Program* p, size_t* n) { *n = p->log.size() + 1; return SUCCESS; }
int nvrtcGetProgramLog(Program* p, char* log) { memcpy(log, p->log.c_str(), p->log.size() + 1); return SUCCESS; }
int nvrtcGetCUBINSize(Program* p, size_t* n) { *n = p->cubin.size(); return SUCCESS; }
int nvrtcGetCUBIN(Program* p, char* cubin) { memcpy(cubin, p->cubin.data(), p->cubin.size()); return SUCCESS; }
}
