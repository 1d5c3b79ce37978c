// The engine's attention, its steps and its sampling against plain arithmetic.

#include "step.cpp"

#include "attending.h"
#include "stepping.h"

int main() {
    all_attention();
    all_steps();
    sampling();
    return verdict("engine");
}
