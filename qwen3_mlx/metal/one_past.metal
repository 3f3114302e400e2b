// The arrays of the only sequence.
#define PICK(n) auto n=n##0;
