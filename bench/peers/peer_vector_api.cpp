// The JDK's Vector API: VectorApi.java in a virtual machine of this process, its weights in Java arrays.
#include <jni.h>
#include <stdlib.h>

#include "linears.h"

namespace {

// The class and its methods.
struct Java {
  JNIEnv* env;
  jclass type;
  jmethodID create, add, prepare, run, result, close;
};

// Ends the process where Java threw.
void must(const Java& java) {
  if (!java.env->ExceptionCheck()) return;
  java.env->ExceptionDescribe();
  exit(1);
}

Java start() {
  // Inlined into their caller the kernels would exceed the compiler's limits, which then boxes vectors.
  char module[] = "--add-modules=jdk.incubator.vector", classes[] = "-Djava.class.path=" VECTOR_API_CLASSES,
       access[] = "--enable-native-access=ALL-UNNAMED", heap[] = "-Xmx8g", collector[] = "-XX:+UseSerialGC",
       checks[] = "-Djdk.incubator.vector.VECTOR_ACCESS_OOB_CHECK=0", quiet[] = "-XX:CompileCommand=quiet",
       one[] = "-XX:CompileCommand=dontinline,VectorApi::one", four[] = "-XX:CompileCommand=dontinline,VectorApi::four";
  JavaVMOption options[] = {{module, nullptr},    {classes, nullptr}, {access, nullptr}, {heap, nullptr},
                            {collector, nullptr}, {checks, nullptr},  {quiet, nullptr},  {one, nullptr},
                            {four, nullptr}};
  JavaVMInitArgs arguments{JNI_VERSION_21, jint(std::size(options)), options, JNI_FALSE};
  JavaVM* machine;
  void* env;
  if (JNI_CreateJavaVM(&machine, &env, &arguments) != JNI_OK) {
    fprintf(stderr, "no Java virtual machine\n");
    exit(1);
  }
  Java java{static_cast<JNIEnv*>(env), nullptr, {}, {}, {}, {}, {}, {}};
  java.type = java.env->FindClass("VectorApi");
  must(java);
  const auto method = [&](const char* name, const char* signature) {
    const jmethodID id = java.env->GetMethodID(java.type, name, signature);
    must(java);
    return id;
  };
  java.create = method("<init>", "(ZI)V");
  java.add = method("add", "(JJIII)V");
  java.prepare = method("prepare", "(II)V");
  java.run = method("run", "(I)V");
  java.result = method("result", "(IJ)V");
  java.close = method("close", "()V");
  return java;
}

class VectorLinears : public peers::Linears {
 public:
  VectorLinears(const Java& java, int32_t type, const std::vector<peers::Part>& parts, int64_t copies)
      : java_(java), object_(java.env->NewObject(java.type, java.create, jboolean(type == FTH_I8), jint(copies))) {
    must(java_);
    for (const peers::Part& part : parts) {
      java_.env->CallVoidMethod(object_, java_.add, address(part.x.data()), address(part.w.data()),
                                jint(peers::kMostRows), jint(part.in), jint(part.out));
      must(java_);
      y_.emplace_back(size_t(peers::kMostRows) * size_t(part.out));
    }
  }
  ~VectorLinears() override {
    java_.env->CallVoidMethod(object_, java_.close);
    java_.env->DeleteLocalRef(object_);
  }
  void prepare(int64_t rows, int threads) override {
    java_.env->CallVoidMethod(object_, java_.prepare, jint(rows), jint(threads));
    must(java_);
  }
  void run(int64_t copy) override {
    java_.env->CallVoidMethod(object_, java_.run, jint(copy));
    must(java_);
  }
  // Java keeps its own, which is copied from here on each call.
  float* y(int part) override {
    float* values = y_[size_t(part)].data();
    java_.env->CallVoidMethod(object_, java_.result, jint(part), address(values));
    must(java_);
    return values;
  }

 private:
  static jlong address(const void* at) { return reinterpret_cast<jlong>(at); }
  const Java& java_;
  jobject object_;
  std::vector<std::vector<float>> y_;
};

class VectorApi : public peers::Peer {
 public:
  std::string name() const override {
    JNIEnv* env = java_.env;
    const jmethodID version = env->GetStaticMethodID(java_.type, "version", "()Ljava/lang/String;");
    must(java_);
    const jstring text = static_cast<jstring>(env->CallStaticObjectMethod(java_.type, version));
    const char* characters = env->GetStringUTFChars(text, nullptr);
    const std::string name = std::string("Vector API, JDK ") + characters;
    env->ReleaseStringUTFChars(text, characters);
    return name;
  }
  std::unique_ptr<peers::Linears> load(int32_t type, const std::vector<peers::Part>& parts, int64_t copies) override {
    if (type != FTH_F32 && type != FTH_I8) return nullptr;
    return std::make_unique<VectorLinears>(java_, type, parts, copies);
  }

 private:
  Java java_ = start();
};

}  // namespace

int main(int argc, char** argv) {
  const peers::Options options = peers::parse(argc, argv);
  VectorApi peer;
  peers::Report report(options, peer.name());
  peers::compare_linears(options, peer, report);
}
